"""Read the batch files of CIFAR-10 without running anything that their pickles may contain."""

import hashlib
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arcface_pl.data.labelled import LabelledImages
from arcface_pl.data.sources.catalog import FileSpec
from arcface_pl.errors import DataError

_SHAPE = (3, 32, 32)


def read_batches(paths: Sequence[Path], specs: Sequence[FileSpec], count: int, num_classes: int) -> LabelledImages:
    """Read and concatenate batch files.

    Args:
        paths: The files, in order.
        specs: The checksum of each.
        count: Number of images in all files together, the same in each.
        num_classes: Every label must be below this.

    Returns:
        Images (count, 3, 32, 32) and their labels.

    Raises:
        DataError: If a file is missing or differs.
    """
    each = count // len(paths)
    parts = [_read_batch(path, spec, each, num_classes) for path, spec in zip(paths, specs, strict=True)]
    images, labels = zip(*parts, strict=True)
    return LabelledImages(torch.cat(images), torch.cat(labels))


def _read_batch(path: Path, spec: FileSpec, count: int, num_classes: int) -> LabelledImages:
    try:
        with path.open("rb") as stream:
            raw = stream.read(2 * count * torch.Size(_SHAPE).numel())  # whatever the file's size is
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found != spec.md5:
        raise DataError(
            f"{path}: expected the md5 {spec.md5}, found {found} in {path.stat().st_size} bytes: "
            "delete the file and run again"
        )
    try:
        batch = _ArrayUnpickler(io.BytesIO(raw), encoding="latin1").load()
        pixels, labels = batch["data"], torch.tensor(batch["labels"], dtype=torch.int64)
    except Exception as error:
        raise DataError(f"{path}: expected a pickle of data and labels, found something else: {error}") from None
    width = torch.Size(_SHAPE).numel()
    if pixels.dtype != np.uint8 or pixels.shape != (count, width) or labels.shape != (count,):
        raise DataError(
            f"{path}: expected {count} x {width} bytes and {count} labels, "
            f"found {pixels.dtype} {pixels.shape} and {len(labels)} labels"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise DataError(
            f"{path}: expected labels from 0 to {num_classes - 1}, found {int(labels.min())} to {int(labels.max())}"
        )
    return LabelledImages(torch.from_numpy(pixels.copy()).view(count, *_SHAPE), labels)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays, numbers and strings; refuses any other name, since loading it could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]
        raise pickle.UnpicklingError(f"{module}.{name} does not belong in a file of images")
