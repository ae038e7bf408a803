"""Finding a data set's files and loading them."""

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from arcface_pl.data.catalog import DatasetSpec
from arcface_pl.data.digits import load_digits
from arcface_pl.data.errors import DataError
from arcface_pl.data.idx import read_images, read_labels

__all__ = ["LoadedData", "find_folder", "load_dataset", "search_folders"]

DATA_DIR_VARIABLE = "ARCFACE_PL_DATA_DIR"


@dataclass(frozen=True)
class LoadedData:
    """Everything a data set holds.

    Attributes:
        train_images: (N, C, H, W) uint8.
        train_labels: (N,) int64.
        test_images: (M, C, H, W) uint8.
        test_labels: (M,) int64.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def search_folders(data_dir: str | Path) -> list[Path]:
    """List where data is looked for: ``data_dir``, ``$ARCFACE_PL_DATA_DIR`` and ``data``, each once."""
    candidates = [str(data_dir), os.environ.get(DATA_DIR_VARIABLE, ""), "data"]
    return [Path(folder).expanduser() for folder in dict.fromkeys(candidates) if folder]


def find_folder(spec: DatasetSpec, data_dir: str | Path) -> Path | None:
    """Find the first folder that holds every file of a data set, plain or packed; nothing is opened.

    Args:
        spec: The data set.
        data_dir: Where to look first.

    Returns:
        The folder that holds the files themselves, or None.
    """
    for root in search_folders(data_dir):
        folder = root / spec.folder
        if all(_present(folder, file.name) for file in spec.files):
            return folder
    return None


def load_dataset(spec: DatasetSpec, folder: Path | None) -> LoadedData:
    """Read and check a data set.

    Args:
        spec: The data set.
        folder: Where its files lie, from :func:`find_folder`; unused for the digits.

    Returns:
        Its images and labels, on the CPU.

    Raises:
        DataError: If a file is missing or damaged.
    """
    if spec.name == "digits":
        return LoadedData(*load_digits())
    assert folder is not None
    paths = [_present(folder, file.name) for file in spec.files]
    parts: list[Tensor] = []
    for number, count in enumerate((spec.num_train, spec.num_test)):
        (images, labels), (image_spec, label_spec) = paths[2 * number :][:2], spec.files[2 * number :][:2]
        if images is None or labels is None:
            raise DataError(f"{folder}: a file of {spec.title} has gone since the folder was found")
        parts.append(read_images(images, image_spec, count, spec.image_size))
        parts.append(read_labels(labels, label_spec, count, len(spec.class_names)))
    return LoadedData(*parts)


def _present(folder: Path, name: str) -> Path | None:
    """Find a file, packed or plain; packed first, since its checksum is known for every set."""
    return next((path for path in (folder / name, folder / name.removesuffix(".gz")) if path.is_file()), None)
