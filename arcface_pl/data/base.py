"""`ImageDataModule`: splits, loaders, distribution over processes and exact resume for every data module of images."""

import copy
import inspect
import logging
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from arcface_pl.data.agreement import check_alike, check_batches_alike
from arcface_pl.data.augment import ImageChange
from arcface_pl.data.bounds import check_bounds
from arcface_pl.data.classes import GivenClass
from arcface_pl.data.epochs import Batches
from arcface_pl.data.facts import ImageFacts
from arcface_pl.data.loader import BatchLoader
from arcface_pl.data.parts import Part, Parts, shortages, small_classes
from arcface_pl.data.split import check_groups
from arcface_pl.data.transform import ImageTransform, Transform
from arcface_pl.errors import DataError, expected
from arcface_pl.functional.checks import check_number
from arcface_pl.preprocessing import ChannelOrder, Normalization

_LOG = logging.getLogger(__name__)
_REPEATABLE = (
    "data.transform: batches are repeated exactly, on resume too, if it draws random numbers from torch, random or "
    "numpy only. Its settings are compared on resume, its code is not."
)


class ImageDataModule(ImageFacts):
    """Labelled images in train, val and test parts, in memory or in files.

    A subclass describes the images (the abstract properties) and loads them (:meth:`load_parts`). Works with or without
    a Trainer; without one, call :meth:`prepare_data` and :meth:`setup` first. See ``arcface_pl/data/README.md`` for a
    complete example, and for what the rest of the package reads of a data module that is not a subclass of this one.

    Args:
        batch_size: Training images per step and process; at least 1. The last step of an epoch takes what is left; a
            single image left over joins the step before.
        images_per_class: Training images of each class in a batch, for losses on pairs: at least 2, a divisor of
            batch_size, and at most half of it. An epoch then shows every image at least once, and some again to fill
            the last group of a class. null to draw images whatever their class.
        eval_batch_size: Largest number of images per step in validation, test and prediction; affects speed and memory
            only.
        val_fraction: Fraction of the training images used for validation, in [0, 1). 0 for no validation.
        watch_test: Validate on the test set after every epoch instead, as the original loop does. Choices made by these
            numbers are no longer tested on unseen images.
        normalize: Subtract the training images' mean and divide by their standard deviation, per channel. Otherwise
            pixels are in [0, 1].
        channel_order: Order of the color channels in the network's input: rgb, or bgr for pretrained weights that want
            it. Mean, standard deviation and transforms see RGB. Stored in checkpoints, with which every command honors
            it; evaluation takes the checkpoint's.
        augmentation: Random changes to training images, or None.
        transform: Changes training images in the place of the built-in augmentation: a torchvision v2 transform or
            another callable, or a list of them. It maps uint8 images (C, H, W) to images of the same shape.
        eval_transform: The same for validation, test and prediction. Checkpoints do not hold it: pictures that are
            recognized later are prepared without it.
        seed: Seed of splits, order and augmentation; at least 0. null for the run's seed_everything.
        allow_inexact_resume: Resume with a warning from a checkpoint made with other data, batch size or number of
            processes. Otherwise that is refused.
        classes: Classes to train on, by name, or by number in label order if the data set numbers its classes. null for
            all that are not held out. Labels and class_names are those of the chosen classes, in order.
        held_out_classes: Classes never seen in training and validation: a list of at least two, how many, or a share
            such as 0.2, drawn by the seed. null for all that classes leaves; [] for none. Used in evaluation.

    Raises:
        ValueError: If a value is out of range.
    """

    notices: Sequence[str] = ()
    """What the splits are too small for, known after :meth:`setup`; one sentence each, with the setting to change."""

    labels_checked = True
    """Whether every label was checked while loading, so that training steps need not check them again."""

    can_train = True
    """Whether there are training images at all; without them the images can be evaluated on."""

    def __init__(
        self,
        *,
        batch_size: int = 64,
        images_per_class: int | None = None,
        eval_batch_size: int = 250,
        val_fraction: float = 0.1,
        watch_test: bool = False,
        normalize: bool = True,
        channel_order: ChannelOrder = "rgb",
        augmentation: ImageChange | None = None,
        transform: list[Transform] | Transform | None = None,
        eval_transform: list[Transform] | Transform | None = None,
        seed: int | None = None,
        allow_inexact_resume: bool = False,
        classes: list[GivenClass] | None = None,
        held_out_classes: list[GivenClass] | int | float | None = None,
    ) -> None:
        super().__init__()
        check_bounds(batch_size=batch_size, eval_batch_size=eval_batch_size, **({} if seed is None else {"seed": seed}))
        if images_per_class is not None:
            check_groups(images_per_class, batch_size)
        check_number("val_fraction", val_fraction, low=0, high=1)
        self.batch_size = batch_size
        self.images_per_class = images_per_class
        self.eval_batch_size = eval_batch_size
        self.val_fraction = val_fraction
        self.watch_test = watch_test
        self.normalize = normalize
        self.channel_order = channel_order
        self.augmentation = augmentation if transform is None else ImageTransform("transform", transform)
        self.eval_transform = None if eval_transform is None else ImageTransform("eval_transform", eval_transform)
        self.seed = seed
        self.allow_inexact_resume = allow_inexact_resume
        self.classes = classes
        self.held_out_classes = held_out_classes
        self._parts: Parts | None = None
        self._fingerprint = ""
        self._counts: dict[str, list[int]] = {}
        self._trained_on: Mapping[str, Any] = {}
        self._given: Collection[str] = ("test",)  # parts that are not split off by seed
        self._said: set[str] = set()
        self._normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        # Subclasses' arguments as well, and with every default. Asked to find the frame, Lightning would leave a cycle
        # that keeps the local variables of all callers until the next garbage collection.
        ignored = ["augmentation", "transform", "eval_transform"]
        # The callback HyperParameters logs them, with the run's seed in place of null: MLflow keeps the first value.
        self.save_hyperparameters(ignore=ignored, frame=inspect.currentframe(), logger=False)

    @abstractmethod
    def load_parts(self) -> Parts:
        """Read or find all images and split them into parts, on the CPU."""

    def setup(self, stage: str | None = None) -> None:
        """Load, check and split the images, and move them to the training device.

        Raises:
            DataError: If a label is out of range, no training image is left, or processes have different data.
        """
        check_alike(self._load_once)
        if stage == "fit":
            if not self.num_train:
                raise DataError(expected("data", f"{self.dataset_name} without training images", "some, to train on"))
            self._say(*self.notices)
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
            images_per_class=self.images_per_class,
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

    def training_on(self, places: Tensor) -> Self:
        """Return a copy that trains on some of the training images only, after :meth:`setup`.

        Args:
            places: (M,) int64, indices of the training images.
        """
        other = copy.copy(self)
        other._parts = self._loaded._replace(train=self._loaded.train.select(places))
        return other

    def val_dataloader(self) -> Batches | list[Batches]:
        """Validation batches, in order; an empty list if there are none."""
        return self._eval_loader(self._loaded.val)

    def test_dataloader(self) -> Batches | list[Batches]:
        """Test batches, in order."""
        return self._eval_loader(self._loaded.test)

    def predict_dataloader(self) -> Batches | list[Batches]:
        """The test batches again."""
        return self.test_dataloader()

    def held_out_dataloader(self, split: Literal["val", "test"]) -> Batches | list[Batches]:
        """Images of the held-out classes, in order, labelled 0, 1, ... in the order of :attr:`held_out_class_names`.

        An empty list if there are none of the split.

        Args:
            split: "val" for their training images, for choosing settings; "test" for their test images.
        """
        if not self.held_out_class_names:
            raise RuntimeError("held_out_dataloader: no class is held out; give held_out_classes")
        return self._eval_loader(self._loaded.held_out_val if split == "val" else self._loaded.held_out_test)

    def state_dict(self) -> dict[str, Any]:
        """Return what the batches of this run depend on; stored in its checkpoints."""
        return {
            "data": self._fingerprint,
            "images": self._counts,
            "batch_size": self.batch_size,
            # None if unset, as in checkpoints from before the setting
            "images_per_class": self.images_per_class,
            "world_size": self.trainer.world_size if self.trainer else 1,
            "seed": self._run_seed,
            "normalize": self.normalize,
            # None for RGB, as in checkpoints from before there was a choice.
            "channel_order": None if self.channel_order == "rgb" else self.channel_order,
            "augmentation": str(self.augmentation),
            "eval_transform": self.eval_transform and str(self.eval_transform),
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
        check_batches_alike(
            state_dict,
            self.state_dict(),
            allow=self.allow_inexact_resume,
            own_seed=self.seed is not None,
            trained_on=self._trained_on,
            present={"kwargs": self.hparams, "class_names": self.class_names},
        )

    def tell_trained_on(self, facts: Mapping[str, Any]) -> None:
        """Take what a checkpoint has under "data", for :meth:`load_state_dict` to tell in what other data differ."""
        self._trained_on = facts

    def _load_once(self) -> str:
        if self._parts is None:
            parts = self.load_parts()
            if self.can_train and not len(parts.train.labels):
                accepted = "a fraction that leaves training images"
                raise DataError(expected("data.val_fraction", self.val_fraction, accepted))
            parts.check_labels(self.num_classes, len(self.held_out_class_names))
            self._try_transforms(parts.train)
            self._parts = parts
            self._fingerprint = f"{self.dataset_name} {self._parts.fingerprint}"
            self._counts = parts.counts(self.num_classes)
            if self.can_train:
                found = shortages(parts, watch_test=self.watch_test, given=self._given)
                self.notices = [*found, *small_classes(parts.train, self.images_per_class)]
        return self._fingerprint

    def _say(self, *notices: str) -> None:
        for notice in notices:
            if notice not in self._said and (self.trainer is None or self.trainer.is_global_zero):
                _LOG.warning("%s", notice)
            self._said.add(notice)

    def _try_transforms(self, part: Part) -> None:
        """Apply a user's transforms to one image, so that what does not work shows before training."""
        for change in (self.augmentation, self.eval_transform):
            if isinstance(change, ImageTransform) and len(part.labels):
                change.apply(part.select(torch.zeros(1, dtype=torch.int64)).images, torch.zeros(1, dtype=torch.int64))
                if change is self.augmentation:
                    self._say(_REPEATABLE)

    def batches_of(self, part: Any, **kwargs: Any) -> Batches:
        """Make the loader of a part; ``kwargs`` are ``normalization`` and the arguments of `Batches`."""
        return BatchLoader(part, **kwargs)

    def _loader(self, part: Part, batch_size: int, **kwargs: Any) -> Batches:
        return self.batches_of(
            part,
            batch_size=batch_size,
            normalization=Normalization(*self.normalization, self.channel_order),
            seed=self._run_seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
            **kwargs,
        )

    def _eval_loader(self, part: Part) -> Batches | list[Batches]:
        return self._loader(part, self.eval_batch_size, augmentation=self.eval_transform) if len(part.labels) else []

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
