"""A folder of images of your own, a folder a class, as a LightningDataModule."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from arcface_pl.data.agreement import fingerprint
from arcface_pl.data.augment import PictureAugmentation
from arcface_pl.data.base import ImageDataModule
from arcface_pl.data.classes import split_classes
from arcface_pl.data.epochs import Batches
from arcface_pl.data.folders.image_files import FileLoader, ImageFiles, pixel_statistics
from arcface_pl.data.folders.splits import find_parts, read_parts
from arcface_pl.data.folders.tree import class_folders, split_folders
from arcface_pl.data.labelled import LabelledImages
from arcface_pl.data.parts import Part, Parts
from arcface_pl.errors import DataError
from arcface_pl.preprocessing import Preprocessor
from arcface_pl.seeding import derive_seed

__all__ = ["RESIDENT_LIMIT", "ImageFolderDataModule"]

RESIDENT_LIMIT = 2 << 30
"""Bytes of images that `resident: auto` keeps in memory: 57,000 of 112 x 112 in colour."""

_MOST_WORKERS = 8


class ImageFolderDataModule(ImageDataModule):
    """Your own images: a folder for each class, files of any size and kind below it.

    ``root`` holds the classes' folders, and validation and test images are set aside by seed; or it holds train and,
    where you divided them yourself, val and test, each with the classes' folders. Classes are the sorted names of the
    folders. Every image below a class's folder belongs to it, however deep; links are followed; hidden files and
    folders, other files and folders without an image are left out. The shorter side of an image is brought to
    ``image_size``, and the middle is kept.

    Images that fit in memory live there as one uint8 tensor on the training device, as MNIST does. Others are read,
    augmented and normalised in worker processes. Both give the same batches, which are a function of (seed, epoch,
    step, process): a resumed run sees those that the uninterrupted one would have seen, with any number of workers.

    Args:
        root: Folder of the images.
        image_size: Height and width that every image is brought to, in pixels; at least 4.
        in_channels: 3 for colour, 1 for grey.
        batch_size: Training images a step, on each process; at least 1. The last step of an epoch has what is left.
        eval_batch_size: Images a step in validation, test and prediction, at most; changes speed and memory only.
        val_fraction: Share of the training images set aside for validation, in [0, 1), where there is no folder val.
        test_fraction: Share of all images set aside for the test, in (0, 1), where there is no folder test.
        normalize: Subtract the training images' mean and divide by their standard deviation, channel by channel.
            Without, pixels run from 0 to 1.
        mean: What to subtract instead, on the scale from 0 to 1; one number for each channel. null to measure it.
        std: What to divide by instead, above 0; one number for each channel. null to measure it.
        augment: Change every training image at random. false leaves the five strengths below without effect.
        flip: Mirror every other image, left to right.
        rotation: Largest rotation either way, in degrees, from 0 to 180.
        shift: Largest shift along either axis, in pixels, from 0 to 1000.
        zoom: Largest change of size, as a fraction, in [0, 1): 0.1 draws from 0.9 to 1.1.
        color: Largest change of brightness, contrast and saturation, as a fraction, in [0, 1).
        balance: Show every class equally often, however many images it has.
        check_files: Read every file once before training, so that all that cannot be read are named at once. false
            saves that pass over images that are not kept in memory; the first one that cannot be read ends the run.
        skip_unreadable: Leave out, with a warning, the files that cannot be read. Otherwise they end the run.
        resident: Keep the images in memory: true, false, or auto where they take at most 2 GiB as uint8, channels x
            image_size x image_size bytes each.
        num_workers: Processes that read images. null for one less than the CPUs for each process, at most 8.
        seed: Decides the splits, the order and the augmentation; at least 0. null for the run's seed_everything.
        allow_inexact_resume: Resume from a checkpoint that was made with other data, batch size or number of processes,
            with a warning. Otherwise that is refused.
        classes: Classes to train on, by name or by number in label order. null for all that are not held out. Labels
            and class_names are then those of the chosen ones, in their order.
        held_out_classes: Classes that training and validation never see, at least two. null for all that classes
            leaves; [] for none. Evaluation tells them apart; see `held_out_dataloader`.

    Raises:
        ValueError: If a value is out of range.
        DataError: If the folder, or a class in it, cannot be found.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 112,
        in_channels: Literal[1, 3] = 3,
        batch_size: int = 64,
        eval_batch_size: int = 250,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        normalize: bool = True,
        mean: list[float] | None = None,
        std: list[float] | None = None,
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
        seed: int | None = None,
        allow_inexact_resume: bool = False,
        classes: list[int | str] | None = None,
        held_out_classes: list[int | str] | None = None,
    ) -> None:
        strengths = PictureAugmentation(rotation=rotation, shift=shift, zoom=zoom, flip=flip, color=color)
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            val_fraction=val_fraction,
            watch_test=False,
            normalize=normalize,
            augmentation=strengths if augment and strengths != PictureAugmentation(0, 0, 0, False, 0) else None,
            seed=seed,
            allow_inexact_resume=allow_inexact_resume,
            classes=classes,
            held_out_classes=held_out_classes,
        )
        _check_images(image_size, in_channels, mean, std)
        _check_reading(num_workers, check_files, skip_unreadable, resident)
        if not 0 < test_fraction < 1:
            raise ValueError(f"test_fraction: got {test_fraction!r}, accepts 0 < test_fraction < 1")
        root = str(root)  # a Path would do here, but not in a checkpoint
        self.save_hyperparameters()
        self.root = Path(root).expanduser()
        self.test_fraction = test_fraction
        self.mean, self.std = mean, std
        self.balance = balance
        self.check_files = check_files
        self.skip_unreadable = skip_unreadable
        self.resident = resident
        self.num_workers = num_workers
        self._image_size, self._in_channels = image_size, in_channels
        self._measured: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        if classes is not None or held_out_classes is not None:
            split_classes(self.all_class_names, classes, held_out_classes)  # a mistake shows before any work

    @property
    def dataset_name(self) -> str:
        """Name of the folder."""
        return self.root.resolve().name

    @cached_property
    def all_class_names(self) -> list[str]:
        """Names of the classes, in label order."""
        names = list(class_folders(split_folders(self.root).get("train", self.root)))
        if len(names) < 2:
            raise DataError(f"{self.root}: has one class, {names[0]}; accepts two or more folders with images")
        return names

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self._in_channels

    @property
    def image_size(self) -> int:
        """Height and width of an image, in pixels."""
        return self._image_size

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training pixels for each channel, on the scale from 0 to 1.

        Measured on all training images, or on 4,096 of them that the seed decides; known after :meth:`setup`.
        """
        if self.mean is not None and self.std is not None:
            return tuple(self.mean), tuple(self.std)
        if self._measured is None:
            raise RuntimeError("statistics: mean and standard deviation are measured in setup()")
        return self._measured

    def load_parts(self) -> Parts:
        """Find all images, divide them, and read them where they are to stay in memory.

        Raises:
            DataError: If there is nothing to train on, or a file cannot be read and ``skip_unreadable`` is off.
        """
        found = self._find_parts()
        resident = self.resident is True or (
            self.resident == "auto" and sum(part.num_bytes for part in found) <= RESIDENT_LIMIT
        )
        parts: list[Part] = list(found)
        if resident or self.check_files:
            parts = read_parts(found, resident, self._processes, self.skip_unreadable)
        needed = {"train": parts[0], "test": parts[2]}
        if self.held_out_class_names:
            needed["held_out_classes"] = parts[4]
        for name, part in needed.items():
            if not len(part.labels):
                raise DataError(
                    f"{self.root}: {name} has no image that can be read; accepts more images, or other shares "
                    f"(val_fraction {self.val_fraction}, test_fraction {self.test_fraction})"
                )
        if self.normalize and (self.mean is None or self.std is None):
            seed = derive_seed(self._run_seed, "statistics")
            self._measured = pixel_statistics(parts[0], seed, self._processes)
        files = [part.files for part in found[:3]]
        unseen = [(part.files.rows, part.labels) for part in found[3:]]  # the names are those of the others
        return Parts(fingerprint([*files, *((part.labels,) for part in parts), *unseen]), *parts)

    def batches_of(self, part: Any, **kwargs: Any) -> Batches:
        """Make the loader of a part, with worker processes where its images are files."""
        kwargs["balance"] = self.balance and kwargs.get("shuffle", False)
        if isinstance(part, LabelledImages):
            return super().batches_of(part, **kwargs)
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return FileLoader(part, num_workers=self._processes, pin_memory=on_gpu, **kwargs)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move what workers made; what is on the device already is not copied."""
        images, labels = batch
        return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """Say what the batches of this run depend on; kept in its checkpoints."""
        shape = {"image_size": self.image_size, "in_channels": self.in_channels}
        return {**super().state_dict(), **shape, "balance": self.balance, "normalization": str(self.normalization)}

    @property
    def _processes(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(_MOST_WORKERS, max(0, cpus // (self.trainer.num_devices if self.trainer else 1) - 1))

    def _find_parts(self) -> list[ImageFiles]:
        plain = (0.0,) * self.in_channels, (1.0,) * self.in_channels
        return find_parts(
            self.root,
            self.all_class_names,
            self.class_split,
            Preprocessor(self.image_size, self.in_channels, *plain, **self.picture_style),
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            seed=self._run_seed,
        )


def _check_images(image_size: int, in_channels: int, mean: list[float] | None, std: list[float] | None) -> None:
    """Check what images are to be like.

    Raises:
        ValueError: If a value is out of range.
    """
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 4:
        raise ValueError(f"image_size: got {image_size!r}, accepts a whole number of at least 4")
    if in_channels not in (1, 3):
        raise ValueError(f"in_channels: got {in_channels!r}, accepts 1 for grey or 3 for colour")
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std: got {mean!r} and {std!r}, accepts both or neither")
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != in_channels:
            raise ValueError(f"{name}: got {values!r}, accepts {in_channels} numbers, one for each channel")
    if std is not None and min(std) <= 0:
        raise ValueError(f"std: got {std!r}, accepts numbers above 0")


def _check_reading(num_workers: int | None, check_files: bool, skip_unreadable: bool, resident: Any) -> None:
    """Check how images are to be read and kept.

    Raises:
        ValueError: If a value is out of range, or two of them exclude each other.
    """
    if num_workers is not None and num_workers < 0:
        raise ValueError(f"num_workers: got {num_workers!r}, accepts a whole number of at least 0, or null")
    if skip_unreadable and not check_files:
        raise ValueError("skip_unreadable: got true, which needs check_files: true to know what to leave out")
    if resident not in ("auto", True, False):
        raise ValueError(f"resident: got {resident!r}, accepts auto, true or false")
