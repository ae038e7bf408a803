"""`ImageDataModule`: splits, loaders, distribution over processes and exact resume for every data module of images."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from arcface_pl.data.agreement import check_alike
from arcface_pl.data.augment import Augmentation
from arcface_pl.data.classes import ClassSplit, GivenClass, split_classes
from arcface_pl.data.epochs import Batches
from arcface_pl.data.labelled import LabelledImages
from arcface_pl.data.loader import BatchLoader
from arcface_pl.data.parts import Part, Parts, split_parts
from arcface_pl.errors import DataError, expected
from arcface_pl.functional.checks import check_count, check_number
from arcface_pl.preprocessing import Preprocessor
from arcface_pl.seeding import run_seed

_LOG = logging.getLogger(__name__)
LARGEST_BATCH = 2**31 - 1


class ImageDataModule(LightningDataModule, ABC):
    """Labelled images in train, val and test parts, in memory or in files.

    A subclass describes the images (the abstract properties) and loads them (:meth:`load_parts`). Works with or without
    a Trainer; without one, call :meth:`prepare_data` and :meth:`setup` first. See ``arcface_pl/data/README.md`` for a
    complete example, and for what the rest of the package reads of a data module that is not a subclass of this one.

    Args:
        batch_size: Training images per step and process.
        eval_batch_size: Images per step in validation, test and prediction.
        val_fraction: Fraction of the training images used for validation.
        watch_test: Validate on the test set.
        normalize: Subtract the training images' mean and divide by their standard deviation.
        augmentation: Random changes to training images, or None.
        seed: Seed of split, order and augmentation. None for the run's ``seed_everything``.
        allow_inexact_resume: Warn instead of refusing to resume from a checkpoint of other data or batches.
        classes: Classes to train on, by name or number; None for all that are not held out.
        held_out_classes: Classes that training never sees; None for all that ``classes`` leaves.
    """

    labels_checked = True
    """Whether every label was checked while loading, so that training steps need not check them again."""

    numbered_classes = True
    """Whether a class may be given by its number in label order."""

    def __init__(
        self,
        *,
        batch_size: int = 64,
        eval_batch_size: int = 250,
        val_fraction: float = 0.1,
        watch_test: bool = False,
        normalize: bool = True,
        augmentation: Augmentation | None = None,
        seed: int | None = None,
        allow_inexact_resume: bool = False,
        classes: Sequence[GivenClass] | None = None,
        held_out_classes: Sequence[GivenClass] | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            check_count(name, size, low=1)
            if size > LARGEST_BATCH:
                raise ValueError(expected(name, size, f"at most {LARGEST_BATCH} images"))
        check_number("val_fraction", val_fraction, low=0, high=1)
        if seed is not None:
            check_count("seed", seed, low=0)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_fraction = val_fraction
        self.watch_test = watch_test
        self.normalize = normalize
        self.augmentation = augmentation
        self.seed = seed
        self.allow_inexact_resume = allow_inexact_resume
        self.classes = classes
        self.held_out_classes = held_out_classes
        self._parts: Parts | None = None
        self._fingerprint = ""
        self._normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None

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

    @abstractmethod
    def load_parts(self) -> Parts:
        """Read or find all images and split them into parts, on the CPU."""

    # Derived from these.

    @property
    def class_split(self) -> ClassSplit:
        """Labels of the data set that are trained on, and those that are held out.

        Raises:
            ValueError: If ``classes`` or ``held_out_classes`` is invalid, or they contradict each other.
        """
        return split_classes(self.all_class_names, self.classes, self.held_out_classes, numbered=self.numbered_classes)

    @property
    def class_names(self) -> list[str]:
        """Names of the trained classes, in label order."""
        return [self.all_class_names[label] for label in self.class_split.trained]

    @property
    def held_out_class_names(self) -> list[str]:
        """Names of the held-out classes, in label order."""
        return [self.all_class_names[label] for label in self.class_split.held_out]

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
        parts = full, test, self.class_split
        return split_parts(*parts, val_fraction=self.val_fraction, watch_test=self.watch_test, seed=self._run_seed)

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

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Preprocessing of any image for this network, as from `Preprocessor.to_dict`; stored in checkpoints."""
        mean, std = self.normalization
        return Preprocessor(self.image_size, self.in_channels, mean, std, **self.picture_style).to_dict()

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

    def setup(self, stage: str | None = None) -> None:
        """Load, check and split the images, and move them to the training device.

        Raises:
            DataError: If a label is out of range, no training image is left, or processes have different data.
        """
        check_alike(self._load_once)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        self._parts = self._loaded.to(device)
        if self.trainer and not self.num_val:
            self.trainer.limit_val_batches = 0  # otherwise Lightning warns of the empty list

    def train_dataloader(self) -> Batches:
        """Shuffled and augmented training batches."""
        return self._loader(
            self._loaded.train,
            self.batch_size,
            shuffle=True,
            augmentation=self.augmentation,
            position=self._position if self.trainer else None,
        )

    def train_sample_dataloader(self, num_images: int | None = None) -> Batches:
        """Training images in order and without augmentation, for measuring on them.

        Args:
            num_images: How many, evenly spread over the training images; None for all.
        """
        part: Any = self._loaded.train
        if num_images is not None:
            count = len(part.labels)
            wanted = min(count, max(num_images, self.trainer.world_size if self.trainer else 1))
            part = part.select(torch.linspace(0, count - 1, wanted).round().long())
        return self._loader(part, self.eval_batch_size)

    def val_dataloader(self) -> Batches | list[Batches]:
        """Validation batches, in order; an empty list if there are none."""
        return self._loader(self._loaded.val, self.eval_batch_size) if self.num_val else []

    def test_dataloader(self) -> Batches:
        """Test batches, in order."""
        return self._loader(self._loaded.test, self.eval_batch_size)

    def predict_dataloader(self) -> Batches:
        """The test batches again."""
        return self.test_dataloader()

    def held_out_dataloader(self, split: Literal["val", "test"]) -> Batches:
        """Images of the held-out classes, in order, labelled 0, 1, ... in the order of :attr:`held_out_class_names`.

        Args:
            split: "val" for their training images, for choosing settings; "test" for their test images.
        """
        if not self.held_out_class_names:
            raise RuntimeError("held_out_dataloader: no class is held out")
        part = self._loaded.held_out_val if split == "val" else self._loaded.held_out_test
        return self._loader(part, self.eval_batch_size)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch: it was made on the training device."""
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return what the batches of this run depend on; stored in its checkpoints."""
        return {
            "data": self._fingerprint,
            "batch_size": self.batch_size,
            "world_size": self.trainer.world_size if self.trainer else 1,
            "seed": self._run_seed,
            "normalize": self.normalize,
            "augmentation": str(self.augmentation),
            # None if nothing is held out, as in checkpoints from before classes could be held out.
            "held_out_classes": self.held_out_class_names or None,
            "classes": None if len(self.class_names) == len(self.all_class_names) else self.class_names,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume from a checkpoint whose next batches would differ.

        Raises:
            DataError: Unless ``allow_inexact_resume`` is set.
        """
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return  # a trained model may be evaluated on anything
        differences = [
            f"{name}: the checkpoint has {state_dict.get(name)!r}, this run {value!r}"
            for name, value in self.state_dict().items()
            if state_dict.get(name) != value
        ]
        if not differences:
            return
        message = f"the run cannot be resumed exactly. {'; '.join(differences)}"
        if not self.allow_inexact_resume:
            raise DataError(f"{message}. Restore the checkpoint's values, or pass --allow_inexact_resume true")
        _LOG.warning("%s. The next batches differ from those of the uninterrupted run.", message)

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

    def _load_once(self) -> str:
        if self._parts is None:
            parts = self.load_parts()
            if not len(parts.train.labels):
                raise DataError(expected("val_fraction", self.val_fraction, "a fraction that leaves training images"))
            self._check_labels(parts)
            self._parts = parts
            self._fingerprint = f"{self.dataset_name} {self._parts.fingerprint}"
        return self._fingerprint

    def _check_labels(self, parts: Parts) -> None:
        counts = dict.fromkeys(("train", "val", "test"), self.num_classes)
        counts |= dict.fromkeys(("held_out_val", "held_out_test"), len(self.held_out_class_names))
        for name, count in counts.items():
            labels = getattr(parts, name).labels
            wrong = labels[(labels < 0) | (labels >= count)]
            if len(wrong):
                raise DataError(expected(f"labels of the {name} images", int(wrong[0]), f"0 to {count - 1}"))

    def batches_of(self, part: Any, **kwargs: Any) -> Batches:
        """Make the loader of a part; ``kwargs`` are ``normalization`` and the arguments of `Batches`."""
        return BatchLoader(part, **kwargs)

    def _loader(self, part: Part, batch_size: int, **kwargs: Any) -> Batches:
        return self.batches_of(
            part,
            batch_size=batch_size,
            normalization=self.normalization,
            seed=self._run_seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
            **kwargs,
        )

    def _position(self) -> tuple[int, int]:
        """Epoch and number of finished batches in it; only the Trainer knows them after a restart."""
        assert self.trainer is not None
        # Lightning sets this attribute without declaring it.
        overfit = getattr(self.trainer, "overfit_batches", 0)
        epoch = 0 if overfit else self.trainer.current_epoch
        return epoch, batches_done(self.trainer)


def batches_done(trainer: Any) -> int:
    """Return the batches of this epoch that were trained on. `Trainer` has no property that counts them."""
    return trainer.fit_loop.batch_idx + 1
