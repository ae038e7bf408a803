"""The known data sets of catalog.toml: files, checksums, mirrors and properties of the images."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FileSpec:
    """A file of a data set.

    Attributes:
        name: File name, such as ``train-images-idx3-ubyte.gz``. The unpacked file is accepted instead of a ``.gz``.
        md5: Checksum of the file.
        content_md5: Checksum of the content of a ``.gz``, or None if unknown.
    """

    name: str
    md5: str
    content_md5: str | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """A data set: its files, and the properties of its images.

    Attributes:
        name: The value of ``--data.dataset``.
        title: Its usual name.
        mean: Mean of the training pixels per channel, on a scale of 0 to 1.
        std: Standard deviation of the training pixels per channel.
        class_names: Names of the classes, in label order.
        in_channels: Channels per image.
        image_size: Height and width of the images, in pixels.
        num_train: Number of training images.
        num_test: Number of test images.
        folder: Subfolder of the data folder, as in torchvision.
        files: Required files: training images and labels, test images and labels; for CIFAR-10 the batches.
        archive: Archive of the files, if they are not downloaded one by one.
        mirrors: URLs that the name of a file or of the archive is appended to, tried in this order.
    """

    name: str
    title: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = tuple("0123456789")
    in_channels: int = 1
    image_size: int = 28
    num_train: int = 60_000
    num_test: int = 10_000
    folder: str = ""
    files: tuple[FileSpec, ...] = ()
    archive: FileSpec | None = None
    mirrors: tuple[str, ...] = ()


def _spec(name: str, *, files: Sequence[dict[str, str]] = (), archive: Any = None, **facts: Any) -> DatasetSpec:
    facts = {field: tuple(value) if isinstance(value, list) else value for field, value in facts.items()}
    packed = None if archive is None else FileSpec(**archive)
    return DatasetSpec(name, files=tuple(FileSpec(**file) for file in files), archive=packed, **facts)


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_SPECS = {name: _spec(name, **facts) for name, facts in _TABLE["datasets"].items()}

OMNIGLOT, OMNIGLOT_RUNS = _SPECS.pop("omniglot"), _SPECS.pop("omniglot_runs")
CATALOG = _SPECS
"""The data sets of `MNISTDataModule` by name."""
BACKGROUND_ALPHABETS: dict[str, int] = _TABLE["alphabets"]["background"]
"""Characters per alphabet of Omniglot's background part."""
EVALUATION_ALPHABETS: dict[str, int] = _TABLE["alphabets"]["evaluation"]
"""Characters per alphabet of Omniglot's evaluation part."""
