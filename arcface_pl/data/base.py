"""What every data module of images shares: the split, the loaders, the shares of several processes, exact resume."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from arcface_pl.data.agreement import check_alike
from arcface_pl.data.augment import Augmentation
from arcface_pl.data.classes import ClassSplit, split_classes
from arcface_pl.data.epochs import Batches
from arcface_pl.data.loader import BatchLoader
from arcface_pl.data.parts import Part, Parts
from arcface_pl.errors import DataError
from arcface_pl.preprocessing import Preprocessor

__all__ = ["ImageDataModule"]

_LOG = logging.getLogger(__name__)
LARGEST_BATCH = 2**31 - 1


class ImageDataModule(LightningDataModule, ABC):
    """Labelled images, divided into parts: in memory, as whole batches, or as a subclass's ``batches_of`` reads them.

    A subclass says what the images are like and loads them. Works with and without a Trainer; without one,
    :meth:`prepare_data` and :meth:`setup` come first.

    Args:
        batch_size: Training images a step, on each process.
        eval_batch_size: Images a step in validation, test and prediction.
        val_fraction: Share of the training images set aside for validation.
        watch_test: Validate on the test set.
        normalize: Subtract the training images' mean and divide by their standard deviation.
        augmentation: How training images are changed at random, or None.
        seed: Decides split, order and augmentation. None for the run's ``seed_everything``.
        allow_inexact_resume: Warn, instead of refusing, where a checkpoint was made with other data or batches.
        classes: Classes to train on, by name or number; None for all that are not held out.
        held_out_classes: Classes that training never sees; None for all that ``classes`` leaves.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int,
        val_fraction: float,
        watch_test: bool,
        normalize: bool,
        augmentation: Augmentation | None,
        seed: int | None,
        allow_inexact_resume: bool,
        classes: Sequence[int | str] | None = None,
        held_out_classes: Sequence[int | str] | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST_BATCH:
                raise ValueError(f"{name}: got {size!r}, accepts a whole number of at least 1, up to {LARGEST_BATCH}")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction: got {val_fraction!r}, accepts 0 <= val_fraction < 1")
        if seed is not None and seed < 0:
            raise ValueError(f"seed: got {seed!r}, accepts a whole number of at least 0, or none")
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

    # What a subclass says.

    @property
    @abstractmethod
    def dataset_name(self) -> str:
        """Name of the data set, in the form that results and folders use."""

    @property
    @abstractmethod
    def all_class_names(self) -> list[str]:
        """Names of all classes that the data set has, in label order."""

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """Channels of an image."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Height and width of an image, in pixels."""

    @property
    @abstractmethod
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training pixels for each channel, on the scale from 0 to 1."""

    @abstractmethod
    def load_parts(self) -> Parts:
        """Read or find all images, labels checked, and divide them; on the CPU."""

    # What follows from it.

    @property
    def class_split(self) -> ClassSplit:
        """Which of the data set's labels are trained on and which are held out.

        Raises:
            ValueError: If ``classes`` and ``held_out_classes`` cannot be had together.
        """
        return split_classes(self.all_class_names, self.classes, self.held_out_classes)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes that are trained on, in label order."""
        return [self.all_class_names[label] for label in self.class_split.trained]

    @property
    def held_out_class_names(self) -> list[str]:
        """Names of the classes that are held out, in the order of their labels."""
        return [self.all_class_names[label] for label in self.class_split.held_out]

    @property
    def num_classes(self) -> int:
        """Number of classes that are trained on."""
        return len(self.class_names)

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """What is subtracted from each channel and what it is divided by; zeros and ones where ``normalize`` is off."""
        if self._normalization is not None:
            return self._normalization
        return self.statistics if self.normalize else ((0.0,) * self.in_channels, (1.0,) * self.in_channels)

    def normalize_as(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Bring images to the scale that a trained network knows, whatever these images' own would be.

        Args:
            mean: What to subtract from each channel, on the scale from 0 to 1.
            std: What to divide by.
        """
        self._normalization = tuple(mean), tuple(std)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What any picture needs to become such an input, as `Preprocessor.to_dict` has it; kept in checkpoints."""
        mean, std = self.normalization
        return Preprocessor(self.image_size, self.in_channels, mean, std, **self.picture_style).to_dict()

    @property
    def picture_style(self) -> dict[str, Any]:
        """How the images came about, as `Preprocessor` takes it; here plain pictures."""
        return {"style": "picture"}

    @property
    def val_prefix(self) -> Literal["val", "test"]:
        """Prefix under which validation is logged: test where ``watch_test`` shows it the test set."""
        return "test" if self.watch_test else "val"

    @property
    def num_train(self) -> int:
        """Training images."""
        return len(self._loaded.train.labels)

    @property
    def num_val(self) -> int:
        """Validation images."""
        return len(self._loaded.val.labels)

    @property
    def num_test(self) -> int:
        """Test images."""
        return len(self._loaded.test.labels)

    @property
    def class_counts(self) -> list[int]:
        """Training images of each class."""
        return torch.bincount(self._loaded.train.labels, minlength=self.num_classes).tolist()

    @property
    def val_images(self) -> Tensor:
        """The images that validation sees, (N, C, H, W) uint8; the test images where there is no validation."""
        return self._watched.images

    @property
    def val_labels(self) -> Tensor:
        """The labels of :attr:`val_images`, (N,) int64."""
        return self._watched.labels

    def setup(self, stage: str | None = None) -> None:
        """Load, check and split the images, and move them to the training device."""
        check_alike(self._load_once)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        self._parts = self._loaded.to(device)
        if self.trainer and not self.num_val:
            self.trainer.limit_val_batches = 0  # or Lightning warns of the empty list and goes through the motions

    def train_dataloader(self) -> Batches:
        """Shuffled and augmented training batches."""
        return self._loader(
            self._loaded.train,
            self.batch_size,
            shuffle=True,
            augmentation=self.augmentation,
            position=self._position if self.trainer else None,
        )

    def val_dataloader(self) -> Batches | list[Batches]:
        """Validation batches, in order; an empty list where there is no validation."""
        return self._loader(self._loaded.val, self.eval_batch_size) if self.num_val else []

    def test_dataloader(self) -> Batches:
        """Test batches, in order."""
        return self._loader(self._loaded.test, self.eval_batch_size)

    def predict_dataloader(self) -> Batches:
        """The test batches again."""
        return self.test_dataloader()

    def held_out_dataloader(self, split: Literal["val", "test"]) -> Batches:
        """Images of the held-out classes, in order, labelled 0, 1, ... as :attr:`held_out_class_names` has them.

        Args:
            split: "val" for those classes' training images, which nothing was trained on and by which a setting may be
                chosen; "test" for their test images, which choose nothing.
        """
        if not self.held_out_class_names:
            raise RuntimeError("held_out_dataloader: no class is held out")
        part = self._loaded.held_out_val if split == "val" else self._loaded.held_out_test
        return self._loader(part, self.eval_batch_size)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave a batch where it is: it was made on the training device."""
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Say what the batches of this run depend on; kept in its checkpoints."""
        return {
            "data": self._fingerprint,
            "batch_size": self.batch_size,
            "world_size": self.trainer.world_size if self.trainer else 1,
            "seed": self._run_seed,
            "normalize": self.normalize,
            "augmentation": str(self.augmentation),
            # None where nothing is held out, as in the checkpoints of runs that could not do so.
            "held_out_classes": self.held_out_class_names or None,
            "classes": None if len(self.class_names) == len(self.all_class_names) else self.class_names,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on from a checkpoint whose next batches would have been others."""
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return  # a trained model may be tested on anything
        differences = [
            f"{name}: the checkpoint has {state_dict.get(name)!r}, this run {value!r}"
            for name, value in self.state_dict().items()
            if state_dict.get(name) != value
        ]
        if not differences:
            return
        message = f"the run cannot be resumed exactly. {'; '.join(differences)}"
        if not self.allow_inexact_resume:
            raise DataError(f"{message}. Accepts the checkpoint's own values, or --allow_inexact_resume")
        _LOG.warning("%s. Its coming batches are not those of the uninterrupted run.", message)

    @property
    def _loaded(self) -> Parts:
        if self._parts is None:
            raise RuntimeError("the images are there after prepare_data() and setup()")
        return self._parts

    @property
    def _watched(self) -> Part:
        return self._loaded.val if self.num_val else self._loaded.test

    @property
    def _run_seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed

    def _load_once(self) -> str:
        if self._parts is None:
            parts = self.load_parts()
            if not len(parts.train.labels):
                raise DataError(f"val_fraction: got {self.val_fraction!r}, which leaves no image to train on")
            self._parts = parts
            self._fingerprint = f"{self.dataset_name} {self._parts.fingerprint}"
        return self._fingerprint

    def batches_of(self, part: Any, **kwargs: Any) -> Batches:
        """Make the loader of a part; ``kwargs`` are the normalization and what `Batches` takes."""
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
        """The epoch and how many of its batches are done, from the only one who knows after a restart."""
        assert self.trainer is not None
        # Lightning sets this attribute without declaring it.
        overfit = getattr(self.trainer, "overfit_batches", 0)
        epoch = 0 if overfit else self.trainer.current_epoch
        return epoch, self.trainer.fit_loop.batch_idx + 1
