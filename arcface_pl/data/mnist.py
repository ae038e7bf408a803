"""`MNISTDataModule`: MNIST and similar public data sets."""

import logging
from dataclasses import astuple
from pathlib import Path
from typing import Any, Literal

from arcface_pl.data.base import ImageDataModule
from arcface_pl.data.elastic import drawn_augmentation
from arcface_pl.data.labelled import LabelledImages
from arcface_pl.data.parts import Parts
from arcface_pl.data.sources.catalog import CATALOG, DatasetSpec
from arcface_pl.data.sources.find import fetch_dataset, find_folder, is_first_of_machine, load_dataset, missing
from arcface_pl.errors import DataError, expected
from arcface_pl.functional.checks import check_choice
from arcface_pl.preprocessing import check_channel_order, style_of_dataset

_LOG = logging.getLogger(__name__)


class MNISTDataModule(ImageDataModule):
    """MNIST, Fashion-MNIST, KMNIST, CIFAR-10, or the digits that scikit-learn ships.

    The images are one uint8 tensor on the training device; a batch is one index operation, augmented and normalized as
    a whole. Batches are a function of (seed, epoch, step, process), so that resuming is exact.

    Args:
        data_dir: Folder of the files, and where downloads go. $ARCFACE_PL_DATA_DIR and data are searched after it.
        dataset: Name of the data set. auto is MNIST, or scikit-learn's digits if MNIST is missing and cannot be
            downloaded.
        augment: Change training images at random. If false, the four settings below have no effect.
        rotation: Largest rotation in either direction, in degrees, 0 to 180.
        shift: Largest shift along either axis, in pixels, 0 to 1000.
        zoom: Largest relative change of size, in [0, 1): 0.1 draws factors from 0.9 to 1.1.
        elastic: Elastic distortion: standard deviation of the smooth random displacement of pixels along either axis,
            in pixels, at least 0.
        **kwargs: Arguments of `ImageDataModule`. Classes may be given by number, too.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> data = MNISTDataModule(dataset="digits", batch_size=32)
        >>> data.prepare_data()
        >>> data.setup("fit")
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, labels.shape
        (torch.Size([32, 1, 28, 28]), torch.Size([32]))
    """

    def __init__(
        self,
        data_dir: str = "data",
        dataset: Literal["auto", "mnist", "fashion_mnist", "kmnist", "cifar10", "digits"] = "auto",
        augment: bool = True,
        rotation: float = 10.0,
        shift: float = 2.0,
        zoom: float = 0.1,
        elastic: float = 0.0,
        **kwargs: Any,
    ) -> None:
        data_dir = str(data_dir)  # a checkpoint cannot hold a Path
        strengths = drawn_augmentation(rotation, shift, zoom, elastic)
        if kwargs.get("augmentation") is None and augment and any(astuple(strengths)):
            kwargs["augmentation"] = strengths  # a saved config has null
        super().__init__(**kwargs)
        check_choice("dataset", dataset, ("auto", *CATALOG))
        if not data_dir or "\0" in str(data_dir):
            raise ValueError(expected("data_dir", data_dir, "the name of a folder"))
        self.data_dir = data_dir
        self.dataset = dataset
        self._wanted = CATALOG["mnist" if dataset == "auto" else dataset]
        check_channel_order(self.channel_order, self._wanted.in_channels)
        self._found: DatasetSpec | None = None
        _ = self.class_split  # raises before any work

    @property
    def dataset_name(self) -> str:
        """Name of the data set; that of auto is known after :meth:`prepare_data`."""
        if self._found is None and self.dataset == "auto":
            raise RuntimeError("dataset_name: auto is decided in prepare_data()")
        return self._spec.name

    @property
    def fell_back(self) -> bool:
        """Whether auto fell back to the digits; known after :meth:`prepare_data`."""
        return self.dataset == "auto" and self.dataset_name == "digits"

    @property
    def all_class_names(self) -> list[str]:
        """Names of all classes of the set, in label order."""
        return list(self._spec.class_names)

    @property
    def in_channels(self) -> int:
        """Channels per image."""
        return self._spec.in_channels

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return self._spec.image_size

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training pixels per channel, on a scale of 0 to 1."""
        return self._spec.mean, self._spec.std

    @property
    def picture_style(self) -> dict[str, Any]:
        """Kind of images, as arguments of `Preprocessor`."""
        return style_of_dataset(self.dataset_name)

    def prepare_data(self) -> None:
        """Download missing files.

        Safe to call repeatedly and from many processes at once: one downloads, the others wait. Only the first process
        of a machine downloads.

        Raises:
            DataError: If files are missing and cannot be downloaded, unless ``dataset`` is auto.
        """
        if self._found is not None:
            return
        folder = self._find()
        if folder is None and self._wanted.files and is_first_of_machine():
            try:
                folder = fetch_dataset(self._wanted, self.data_dir)
            except DataError as error:
                if self.dataset != "auto":
                    raise
                _LOG.warning("%s", _FALLBACK.format(error))
        self._settle(folder)

    def load_parts(self) -> Parts:
        """Read, check and split the images, on the CPU."""
        return self.split(*self.load())

    def load(self) -> tuple[LabelledImages, LabelledImages]:
        """Read and check the training and test images, on the CPU.

        Raises:
            DataError: If a file is missing or damaged.
        """
        # Search again: another process may have finished the download since.
        folder = self._find()
        self._settle(folder)
        if folder is None and self._spec.files:
            raise missing(self._wanted, self.data_dir)
        return load_dataset(self._spec, folder)

    @property
    def _spec(self) -> DatasetSpec:
        return self._found or self._wanted

    def _find(self) -> Path | None:
        return find_folder(self._wanted, self.data_dir) if self._wanted.files else None

    def _settle(self, folder: Path | None) -> None:
        self._found = CATALOG["digits"] if self.dataset == "auto" and folder is None else self._wanted


_FALLBACK = """
==================================== WARNING ====================================
Training on scikit-learn's 1,797 digits, NOT on MNIST. These are real handwritten
digits, but few and coarse: no number of this run can be compared with MNIST's.

{}
=================================================================================
"""
