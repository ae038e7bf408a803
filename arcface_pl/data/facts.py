"""`ImageFacts`: what a data module of images tells of them, before and after they are loaded."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor

from arcface_pl.data.agreement import fingerprint
from arcface_pl.data.classes import ClassSplit, GivenClass, split_classes
from arcface_pl.data.labelled import LabelledImages
from arcface_pl.data.parts import Part, Parts, divide
from arcface_pl.data.transform import ImageTransform
from arcface_pl.preprocessing import ChannelOrder, Preprocessor
from arcface_pl.seeding import run_seed


class ImageFacts(LightningDataModule, ABC):
    """Facts about labelled images, by the settings and the parts of an `ImageDataModule`."""

    numbered_classes = True
    """Whether a class may be given by its number in label order."""

    val_fraction: float
    watch_test: bool
    normalize: bool
    channel_order: ChannelOrder
    eval_transform: ImageTransform | None
    seed: int | None
    classes: list[GivenClass] | None
    held_out_classes: list[GivenClass] | int | float | None
    _parts: Parts | None
    _given: Collection[str]
    _normalization: tuple[tuple[float, ...], tuple[float, ...]] | None

    # To be defined by subclasses.

    @property
    @abstractmethod
    def dataset_name(self) -> str:
        """Short name of the data set, for results and folders."""

    @property
    @abstractmethod
    def all_class_names(self) -> list[str]:
        """Names of all classes of the data set, in label order."""

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """Channels per image."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""

    @property
    @abstractmethod
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training pixels per channel, on a scale of 0 to 1."""

    # Derived from these.

    @property
    def class_split(self) -> ClassSplit:
        """Labels of the data set that are trained on, and those that are held out.

        Raises:
            ValueError: If ``classes`` or ``held_out_classes`` is invalid, or they contradict each other.
        """
        chosen = self.classes, self.held_out_classes
        return split_classes(self.all_class_names, *chosen, numbered=self.numbered_classes, seed=self._run_seed)

    @property
    def class_names(self) -> list[str]:
        """Names of the trained classes, in label order."""
        names = self.all_class_names
        return [names[label] for label in self.class_split.trained]

    @property
    def held_out_class_names(self) -> list[str]:
        """Names of the held-out classes, in label order."""
        names = self.all_class_names
        return [names[label] for label in self.class_split.held_out]

    @property
    def num_classes(self) -> int:
        """Number of trained classes."""
        return len(self.class_names)

    def split(self, full: LabelledImages, test: LabelledImages) -> Parts:
        """Split images in memory into parts by this module's settings, for use in :meth:`load_parts`.

        Args:
            full: Images for training and validation, with labels in the order of :attr:`all_class_names`.
            test: Test images.
        """
        parts = divide(
            {"train": full, "test": test},
            self.class_split,
            val_fraction=self.val_fraction,
            watch_test=self.watch_test,
            seed=self._run_seed,
        )
        return Parts(fingerprint(parts), *parts)

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation that images are normalized with; zeros and ones if ``normalize`` is off."""
        if self._normalization is not None:
            return self._normalization
        return self.statistics if self.normalize else ((0.0,) * self.in_channels, (1.0,) * self.in_channels)

    def normalize_as(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalize images as a trained network expects them, whatever their own statistics are.

        Args:
            mean: Mean per channel, on a scale of 0 to 1.
            std: Standard deviation per channel.
        """
        self._normalization = tuple(mean), tuple(std)

    def use_preprocessing(self, preprocessor: Preprocessor) -> None:
        """Prepare images as a trained network expects them."""
        self.normalize_as(preprocessor.mean, preprocessor.std)
        self.channel_order = preprocessor.channel_order

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Preprocessing of any image for this network, as from `Preprocessor.to_dict`; stored in checkpoints."""
        mean, std = self.normalization
        style = {**self.picture_style, "channel_order": self.channel_order}
        values = Preprocessor(self.image_size, self.in_channels, mean, std, **style).to_dict()
        return values if self.eval_transform is None else {**values, "eval_transform": str(self.eval_transform)}

    @property
    def picture_style(self) -> dict[str, Any]:
        """Kind of images, as arguments of `Preprocessor`; by default plain pictures."""
        return {"style": "picture"}

    @property
    def val_prefix(self) -> Literal["val", "test"]:
        """Prefix of validation metrics: "test" if ``watch_test`` validates on the test set."""
        return "test" if self.watch_test else "val"

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return len(self._loaded.train.labels)

    @property
    def num_val(self) -> int:
        """Number of validation images."""
        return len(self._loaded.val.labels)

    @property
    def num_test(self) -> int:
        """Number of test images."""
        return len(self._loaded.test.labels)

    @property
    def class_counts(self) -> list[int]:
        """Number of training images per class."""
        return torch.bincount(self._loaded.train.labels, minlength=self.num_classes).tolist()

    @property
    def val_images(self) -> Tensor:
        """Validation images, (N, C, H, W) uint8; the test images if there are none."""
        return self._watched.images

    @property
    def val_labels(self) -> Tensor:
        """Labels of :attr:`val_images`, (N,) int64."""
        return self._watched.labels

    def is_drawn(self, split: str) -> bool:
        """Whether the images of a split, "val" or "test", are drawn from others by seed and share, after ``setup``."""
        return split not in self._given

    @property
    def _loaded(self) -> Parts:
        if self._parts is None:
            raise RuntimeError("call prepare_data() and setup() first")
        return self._parts

    @property
    def _watched(self) -> Part:
        return self._loaded.val if self.num_val else self._loaded.test

    @property
    def _run_seed(self) -> int:
        return run_seed() if self.seed is None else self.seed
