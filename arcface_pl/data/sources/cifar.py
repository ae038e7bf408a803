"""Read the batch files of CIFAR-10, whose checksums are known."""

import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch

from arcface_pl.data.labelled import LabelledImages
from arcface_pl.data.sources.catalog import FileSpec
from arcface_pl.errors import DataError

_MOST_BYTES = 1 << 25  # the files have 31 MB


def read_batches(paths: Sequence[Path], specs: Sequence[FileSpec]) -> LabelledImages:
    """Read and concatenate batch files.

    Args:
        paths: The files.
        specs: Their descriptions, in the same order.

    Returns:
        Images (N, 3, 32, 32) uint8, and their labels.

    Raises:
        DataError: If a file is missing or does not have the expected content.
    """
    parts = [_read_batch(path, spec) for path, spec in zip(paths, specs, strict=True)]
    images, labels = zip(*parts, strict=True)
    return LabelledImages(torch.cat(images), torch.cat(labels))


def _read_batch(path: Path, spec: FileSpec) -> LabelledImages:
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != spec.md5:
        fault = f"expected the md5 {spec.md5}, found {found} in {path.stat().st_size} bytes"
        raise DataError(f"{path}: {fault}: delete the file and run again")
    batch = pickle.loads(content, encoding="latin1")  # known content, which names numpy's arrays only
    images = torch.from_numpy(batch["data"].copy()).view(-1, 3, 32, 32)
    return LabelledImages(images, torch.tensor(batch["labels"], dtype=torch.int64))
