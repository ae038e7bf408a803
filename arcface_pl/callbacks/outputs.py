"""What validation and test steps return, and how callbacks read steps and batches that look different."""

import math
from collections.abc import Mapping
from typing import Any, TypedDict
from weakref import WeakKeyDictionary

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from arcface_pl.data.protocol import images_and_labels, in_rgb
from arcface_pl.errors import DataError
from arcface_pl.evaluation.thresholds import evenly_spread

_WARNED: WeakKeyDictionary[L.Callback, set[str]] = WeakKeyDictionary()


class ScoredBatch(TypedDict):
    """Output of `ArcFaceModule.validation_step` and `test_step`, one row per image; angles are in degrees.

    An overridden step that returns a subset feeds the callbacks that need no more than that.
    """

    embeddings: Tensor
    """(B, D), not normalized."""
    labels: Tensor
    """(B,) int64."""
    predictions: Tensor
    """(B,) int64, made without the label."""
    target_angle: Tensor
    """(B,) angle to the center of the labeled class."""
    predicted_angle: Tensor
    """(B,) angle to the center of the predicted class."""
    nearest_other_angle: Tensor
    """(B,) angle to the nearest center of any other class."""


def scored_batch(callback: L.Callback, outputs: Any, *names: str) -> ScoredBatch | None:
    """Return a step's outputs if they hold what a callback needs; otherwise warn once and return None.

    Args:
        callback: The callback that reads them.
        outputs: What Lightning passes to ``on_validation_batch_end`` and its siblings.
        names: The keys of `ScoredBatch` that the callback needs.
    """
    if isinstance(outputs, Mapping):
        found = {name: outputs.get(name) for name in names}
        fits = [isinstance(each, Tensor) and each.ndim == 1 + (name == "embeddings") for name, each in found.items()]
        if all(fits) and len({len(each) for each in found.values()}) == 1:  # type: ignore[arg-type]  # tensors, all
            return outputs  # type: ignore[return-value]  # a mapping with the keys that are read
    got = f"a dict with {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else type(outputs).__name__
    warn_once(
        callback,
        f"output of the validation or test step: got {got}; expected a dict with {', '.join(names)}, one row per image "
        "(arcface_pl.callbacks.outputs.ScoredBatch). Such batches are skipped",
    )
    return None


class ScoredCallback(L.Callback):
    """A callback that reads the outputs of the validation step, and of the test step if it aliases the hook."""

    needs: tuple[str, ...]
    """The keys of `ScoredBatch` that `on_scored_batch` reads."""

    def wants(self, trainer: L.Trainer) -> bool:
        """Return whether outputs are read now."""
        return True

    def on_scored_batch(self, trainer: L.Trainer, scored: ScoredBatch, batch: Any, batch_idx: int) -> None:
        """Read a batch's outputs, which hold what the callback needs."""
        raise NotImplementedError

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Pass on the outputs if they hold what is needed; otherwise warn once."""
        scored = scored_batch(self, outputs, *self.needs) if self.wants(trainer) else None
        if scored is not None:
            self.on_scored_batch(trainer, scored, batch, batch_idx)


def images_of(
    callback: L.Callback, trainer: L.Trainer, batch: Any, num_images: int, like: Tensor | None = None
) -> Tensor | None:
    """Return a batch's images (B, C, H, W) in RGB if they can be shown; otherwise warn once and return None.

    Args:
        callback: The callback that shows them.
        trainer: Its data module knows the order of the channels.
        batch: What the loader yields.
        num_images: B.
        like: Images of an earlier batch, whose C, H and W these must have.
    """
    try:
        images = images_and_labels(batch)[0]
    except DataError:
        images = None
    shape = tuple(images.shape) if isinstance(images, Tensor) else ()
    fits = len(shape) == 4 and shape[0] == num_images and shape[1] in (1, 3)
    if fits and (like is None or like.shape[1:] == shape[1:]):
        return in_rgb(getattr(trainer, "datamodule", None), images)
    warn_once(
        callback,
        f"batch: got {type(batch).__name__}; expected (images, labels) with images (B, 1 or 3, H, W), all of one size. "
        "Images of other batches are not shown",
    )
    return None


def num_classes_of(callback: L.Callback, module: L.LightningModule) -> int | None:
    """Return ``module.head.num_classes``, or warn once and return None where there is no such number."""
    number = getattr(getattr(module, "head", None), "num_classes", None)
    if isinstance(number, int):
        return number
    warn_once(callback, f"head.num_classes: got {number!r}; expected a whole number. What needs it is skipped")
    return None


def num_batches_of(trainer: L.Trainer) -> float:
    """Return how many batches this process validates or tests on; inf for data sets without a length."""
    return sum(trainer.num_test_batches if trainer.testing else trainer.num_val_batches)


def share_of_rows(labels: Tensor, num_images: int, num_batches: float, batch_idx: int) -> Tensor:
    """Return which rows of a batch to keep so that all batches together yield about ``num_images``.

    Args:
        labels: (B,) labels of the batch; rows are spread evenly over it, since a split may be sorted by class.
        num_images: Rows wanted of all batches.
        num_batches: Number of batches; where it is inf, the first batches are kept whole.
        batch_idx: Which of the batches this is.
    """
    known = math.isfinite(num_batches)
    wanted = math.ceil(num_images / max(1, num_batches)) if known else max(0, num_images - batch_idx * len(labels))
    return evenly_spread(len(labels), wanted).to(labels.device)


def warn_once(callback: L.Callback, message: str) -> None:
    """Warn in the first process, once per callback and message."""
    warned = _WARNED.setdefault(callback, set())
    if message not in warned:
        warned.add(message)
        rank_zero_warn(f"{type(callback).__name__}, {message}.")
