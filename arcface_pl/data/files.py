"""`ImageFilesDataModule`: images in files, listed by a subclass; splitting, reading, augmentation, worker processes."""

import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from arcface_pl.data.agreement import fingerprint
from arcface_pl.data.augment import PictureAugmentation
from arcface_pl.data.base import ImageDataModule
from arcface_pl.data.bounds import check_bounds
from arcface_pl.data.epochs import Batches
from arcface_pl.data.folders.image_files import FileLoader, ImageFiles, pixel_statistics
from arcface_pl.data.labelled import LabelledFiles, LabelledImages
from arcface_pl.data.parts import Part, Parts, divide, read_parts
from arcface_pl.errors import DataError, expected
from arcface_pl.functional.checks import check_number
from arcface_pl.preprocessing import Preprocessor, check_channel_order, measure_white_level
from arcface_pl.seeding import derive_seed

RESIDENT_LIMIT = 2 << 30
"""Bytes of images that `resident: auto` keeps in memory: 57,000 of 112 x 112 in colour."""

# Eight decode 25,000 JPEGs of 112 x 112 per second (0.32 ms each on a core of an AMD EPYC): as many as IResNet-50, at
# 38 GFLOP per image and step, could take on an H100 at its peak. data.num_workers is for photographs of megapixels.
_DEFAULT_WORKERS = 8
_MOST_PROBED = 256


class ImageFilesDataModule(ImageDataModule):
    """Images in files of any size and kind. The shorter side is resized to ``image_size``, and the center is cropped.

    Images that fit in memory are kept as one uint8 tensor on the training device. Others are read, augmented and
    normalized in worker processes. Both give the same batches, a function of (seed, epoch, step, process), so that
    resuming is exact with any number of workers.

    A subclass sets ``self.root`` before it calls this constructor, and lists the files in :meth:`list_files`.

    Args:
        image_size: Height and width of the network's input, in pixels; at least 4.
        in_channels: 3 for color, 1 for grey.
        test_fraction: Fraction of all images used for the test, in (0, 1); ignored if test images are given.
        mean: Mean to normalize by, on a scale of 0 to 1, one number per channel. null to measure it.
        std: Standard deviation to normalize by, above 0, one number per channel. null to measure it.
        white_level: Pixel value of white in files of more than 8 bits per channel, such as 4095 for 12-bit images. null
            to choose it from a sample of the training images: 8, 10, 12, 14 or 16 bits, or 1, 255 or 65535 for floating
            point.
        augment: Change training images at random. If false, the five settings below have no effect.
        flip: Mirror every other image horizontally.
        rotation: Largest rotation in either direction, in degrees, 0 to 180.
        shift: Largest shift along either axis, in pixels, 0 to 1000.
        zoom: Largest relative change of size, in [0, 1): 0.1 draws factors from 0.9 to 1.1.
        color: Largest relative change of brightness, contrast and saturation, in [0, 1).
        balance: Show all classes equally often, however many images they have.
        check_files: Read every file once before training and report all unreadable ones; one process per machine does.
            If false, this pass is skipped for images that are not kept in memory, and the first unreadable file ends
            the run.
        skip_unreadable: Leave out unreadable files with a warning instead of ending the run; every process finds them.
        resident: Keep the images in memory: true, false, or auto if they take at most 2 GiB (in_channels x image_size x
            image_size bytes each).
        num_workers: Processes that read images. null for the CPUs per training process minus one, at most 8.
        **kwargs: Arguments of `ImageDataModule`.

    Raises:
        ValueError: If a value is out of range.
        DataError: If the files cannot be listed.
    """

    numbered_classes = False
    root: Path
    """Folder that the names of files are relative to, or one file that holds them all."""

    def __init__(
        self,
        image_size: int = 112,
        in_channels: Literal[1, 3] = 3,
        test_fraction: float = 0.1,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        white_level: float | None = None,
        augment: bool = True,
        flip: bool = True,
        rotation: float = 10.0,
        shift: float = 4.0,
        zoom: float = 0.1,
        color: float = 0.2,
        balance: bool = False,
        check_files: bool = True,
        skip_unreadable: bool = False,
        resident: Literal["auto"] | bool = "auto",
        num_workers: int | None = None,
        **kwargs: Any,
    ) -> None:
        strengths = PictureAugmentation(rotation=rotation, shift=shift, zoom=zoom, flip=flip, color=color)
        if kwargs.get("augmentation") is None and augment and strengths != PictureAugmentation(0, 0, 0, False, 0):
            kwargs["augmentation"] = strengths  # a saved config has null
        super().__init__(**kwargs)
        _check_images(image_size, in_channels, mean, std)
        check_channel_order(self.channel_order, in_channels)
        _check_reading(num_workers, check_files, skip_unreadable, resident)
        check_number("test_fraction", test_fraction, low=0, high=1, low_open=True)
        if white_level is not None:
            check_number("white_level", white_level, low=0, low_open=True)
        self.test_fraction = test_fraction
        self.mean, self.std = mean, std
        self.white_level = white_level
        self.balance = balance
        self.check_files = check_files
        self.skip_unreadable = skip_unreadable
        self.resident = resident
        self.num_workers = num_workers
        self._image_size, self._in_channels = image_size, in_channels
        self._measured: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        if self.classes is not None or self.held_out_classes is not None:
            _ = self.class_split  # raises before any work

    @abstractmethod
    def list_files(self) -> dict[str, LabelledFiles]:
        """List the files below ``root`` by the names train, and optionally val and test where they are given."""

    @property
    def listing(self) -> tuple[str, Tensor] | None:
        """Name of the table that lists the files and the numbers of its rows; None for no table."""
        return None

    @property
    def contents(self) -> Callable[[str], bytes] | None:
        """Reader of an image by its name, where ``root`` is one file that holds them all; None for a folder."""
        return None

    def use_preprocessing(self, preprocessor: Preprocessor) -> None:
        """Prepare images as a trained network expects them, whatever would be measured on them."""
        super().use_preprocessing(preprocessor)
        self.white_level = preprocessor.white_level if self.white_level is None else self.white_level

    @property
    def in_channels(self) -> int:
        """Channels per image."""
        return self._in_channels

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return self._image_size

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training pixels per channel, on a scale of 0 to 1.

        Measured in :meth:`setup` on all training images, or on 4,096 of them chosen by the seed.
        """
        if self.mean is not None and self.std is not None:
            return tuple(self.mean), tuple(self.std)
        if self._measured is None:
            raise RuntimeError("statistics: measured in setup()")
        return self._measured

    @property
    def picture_style(self) -> dict[str, Any]:
        """Kind of images, as arguments of `Preprocessor`; the measured white level is known after :meth:`setup`."""
        return {"style": "picture", "white_level": self.white_level}

    def load_parts(self) -> Parts:
        """List and split all images, and read them if they are kept in memory.

        Raises:
            DataError: If there is nothing to train on or to test, or a file is unreadable and ``skip_unreadable`` off.
        """
        found = self._find_parts()
        resident = self.resident is True or (
            self.resident == "auto" and sum(part.num_bytes for part in found) <= RESIDENT_LIMIT
        )
        parts: list[Part] = list(found)
        if resident or self._checks_files:
            parts = read_parts(found, resident, self._processes, self.skip_unreadable)
        self._check_not_empty(parts)
        if self.normalize and (self.mean is None or self.std is None) and self.can_train:
            seed = derive_seed(self._run_seed, "statistics")
            self._measured = pixel_statistics(parts[0], seed, self._processes)
        files = [part.files for part in found[:3]]
        unseen = [(part.files.rows, part.labels) for part in found[3:]]  # the names are in the others
        return Parts(fingerprint([*files, *((part.labels,) for part in parts), *unseen]), *parts)

    def batches_of(self, part: Any, **kwargs: Any) -> Batches:
        """Make the loader of a part, with worker processes if its images are files."""
        kwargs["balance"] = self.balance and kwargs.get("shuffle", False)
        if isinstance(part, LabelledImages):
            return super().batches_of(part, **kwargs)
        device = None if self.trainer is None else self.trainer.strategy.root_device
        gpu = device if device is not None and device.type == "cuda" else None
        return FileLoader(part, num_workers=self._processes, device=gpu, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Return what the batches of this run depend on; stored in its checkpoints."""
        shape = {"image_size": self.image_size, "in_channels": self.in_channels}
        how = {"balance": self.balance, "normalization": str(self.normalization), "white_level": self.white_level}
        return {**super().state_dict(), **shape, **how}

    @property
    def _checks_files(self) -> bool:
        """Whether this process is to find unreadable files: one per machine is enough, unless all leave them out."""
        rank = self.trainer.local_rank if self.trainer else int(os.environ.get("LOCAL_RANK", "0"))
        return self.check_files and (self.skip_unreadable or rank == 0)

    @property
    def _processes(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        started = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or "1"  # by torchrun; by Lightning
        sharing = self.trainer.num_devices if self.trainer else int(started)
        return min(_DEFAULT_WORKERS, max(0, cpus // sharing - 1))

    def _find_parts(self) -> list[ImageFiles]:
        plain = (0.0,) * self.in_channels, (1.0,) * self.in_channels
        framing = Preprocessor(self.image_size, self.in_channels, *plain, **self.picture_style)
        how = framing, self.listing, self.contents
        given = {name: ImageFiles(self.root, files, *how) for name, files in self.list_files().items()}
        self._given = tuple(given)
        found = divide(
            given,
            self.class_split,
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            watch_test=self.watch_test,
            seed=self._run_seed,
        )
        if self.white_level is None:
            count = len(found[0].labels)
            sample = found[0].files.names(torch.arange(0, count, max(1, count // _MOST_PROBED)))
            self.white_level = measure_white_level(map(found[0].source, sample))
            found = [
                each._replace(preprocessor=replace(each.preprocessor, white_level=self.white_level)) for each in found
            ]
        return found

    def _check_not_empty(self, parts: list[Part]) -> None:
        needed = {"training images": parts[0]} if self.can_train else {}
        needed["test images"] = parts[2]
        if self.held_out_class_names:
            needed["test images of data.held_out_classes"] = parts[4]
        for name, part in needed.items():
            if not len(part.labels):
                place = f"data.root {self.root}" if self.listing is None else f"data.table {self.listing[0]}"
                shares = f"data.val_fraction ({self.val_fraction}) and data.test_fraction ({self.test_fraction})"
                remedy = f"Add images; where the seed splits them, change {shares}"
                raise DataError(expected(place, f"no {name} that can be read", "at least one", remedy))


def _check_images(image_size: int, in_channels: int, mean: list[float] | None, std: list[float] | None) -> None:
    check_bounds(image_size=image_size)
    if in_channels not in (1, 3):
        raise ValueError(expected("in_channels", in_channels, "1 for grey or 3 for color"))
    for name, values, other in (("mean", mean, std), ("std", std, mean)):
        if (values is None) != (other is None):
            raise ValueError(expected(name, values, "mean and std both, or neither"))
        if values is not None and len(values) != in_channels:
            raise ValueError(expected(name, values, f"{in_channels} numbers, one per channel"))
    if std is not None and min(std) <= 0:
        raise ValueError(expected("std", std, "numbers above 0"))


def _check_reading(num_workers: int | None, check_files: bool, skip_unreadable: bool, resident: Any) -> None:
    if num_workers is not None:
        check_bounds(num_workers=num_workers)
    if skip_unreadable and not check_files:
        raise ValueError(expected("skip_unreadable", True, "false, or check_files true"))
    if resident not in ("auto", True, False):
        raise ValueError(expected("resident", resident, "auto, true or false"))
