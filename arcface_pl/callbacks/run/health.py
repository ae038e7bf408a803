"""Detects training that goes wrong and prints what to do about it."""

import math
import sys
from contextlib import suppress
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from arcface_pl.callbacks.outputs import ScoredBatch, ScoredCallback, num_classes_of, warn_once
from arcface_pl.callbacks.run.private_apis import log_interval
from arcface_pl.callbacks.run.progress import loss_of
from arcface_pl.callbacks.tensorboard.writer import class_names_of, datamodule_of, split_name, writer_of
from arcface_pl.data.protocol import fact, images_and_labels
from arcface_pl.errors import DataError, folded, printable
from arcface_pl.heads import AngularHead, ShardedHead
from arcface_pl.metrics.functional.cosine import unit_rows

IN_A_ROW = 3  # bad readings before a warning: the first ones may be a start that the run recovers from
LONG_IN_A_ROW = 10
MAX_COMPARED = 256  # rows of a batch that are compared pairwise
LABELS_AT_ONCE = 50  # batches whose classes are noted together: small operations cost more than their labels

_SLOWER = "a lower learning rate (--model.optimizer.lr)"
_WRONG_LABELS = f"Try {_SLOWER}, and check that the labels fit the images."
_NO_EXTENSION = (
    "The head's extension is none: beyond pi minus the margin its loss falls again, so that pi is a minimum. Use "
    "--model.head.extension monotone."
)
_ADVICE = {
    "loss": "the loss is {loss:.1f}; an untrained network has {untrained:.1f}{cause}. Try " + _SLOWER + ", a margin "
    "warm-up (--model.head.margin_warmup_epochs 2), or a smaller margin or scale (--model.head.margin, "
    "--model.head.scale).",
    "angles": "the mean angle between embeddings and their target class's center is {angle:.0f} degrees: they point "
    "away from it. {cause}",
    "collapse": "images of different classes have nearly the same embedding (mean cosine {cosine:.4f}). Check that the "
    "images still differ after preprocessing and normalization, and try " + _SLOWER + ".",
    "long": "the median norm of the embeddings is {length:.3g}: the network's weights explode, and the longer an "
    "embedding, the less a step rotates it. Try " + _SLOWER + ", weight decay (--model.optimizer.weight_decay) or "
    "--gradient_clip_val 1.",
    "short": "the median norm of the embeddings is {length:.3g}: hardly a direction is left, and nothing can be "
    "learned from it. Try " + _SLOWER + " or less weight decay, and check that the images are not all black.",
    "classes": "{num_missing:,} of {num_classes:,} classes had no image in a whole epoch: {names}. They are never "
    "learned, and their centers only push the others away. Check that the training split has their images, or remove "
    "these classes.",
    "learning_rate": "the learning rate of {groups} is 0, so that it is not trained. Check --model.optimizer.lr, "
    "--model.head_lr and --model.lr_schedule.",
    "accuracy": "validation accuracy is {accuracy:.2%}, no better than guessing ({guess:.2%} by always predicting the "
    "most frequent class). If the loss falls nevertheless, check that training and validation images are preprocessed "
    "alike and that the labels are right; if it does not, try another learning rate (--model.optimizer.lr).",
}


class HealthCheck(ScoredCallback):
    """Warns once per problem of training with angular margins and suggests a fix.

    * The loss stays at its untrained value, near ``scale`` times the margin's cost.
    * Embeddings point away from their target class: a mean angle above 135 degrees.
    * Embeddings collapse: images of different classes have a mean cosine above 0.99.
    * Norms of embeddings explode or vanish.
    * A learning rate is zero, or a class has no image in a whole epoch.
    * Validation accuracy is no better than guessing after as many batches as hold all training images.

    Reads one step every ``log_every_n_steps``, the only ones that wait for the device, and draws no random numbers.
    Messages go to the console and to TensorBoard's Text tab as ``health/...``.
    """

    needs = ("labels",)

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._in_a_row: dict[str, int] = {}
        self._embeddings: Tensor | None = None
        self._hook: Any = None
        self._seen: Tensor | None = None
        self._labels: list[Tensor] = []
        self._classes_checked = False
        self._num_batches = 0
        self._num_trained = 0
        self._num_validated = 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start to record which classes appear."""
        num_classes = None if self._classes_checked else num_classes_of(self, pl_module)
        self._seen, self._labels, self._num_batches = None, [], 0
        if num_classes is not None:
            # One entry more, for labels that the head has no class for
            self._seen = torch.zeros(num_classes + 1, dtype=torch.int32, device=pl_module.device)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """If this step is read, catch the embeddings on their way to the head."""
        backbone = getattr(pl_module, "backbone", None)
        if (trainer.global_step + 1) % log_interval(trainer) == 0 and isinstance(backbone, nn.Module):
            self._hook = backbone.register_forward_hook(self._catch)

    def _catch(self, backbone: Any, images: Any, embeddings: Any) -> None:
        self._embeddings = embeddings.detach() if isinstance(embeddings, Tensor) and embeddings.ndim == 2 else None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the step."""
        self._num_batches += 1
        self._num_trained += 1
        try:
            labels = images_and_labels(batch)[1]
        except DataError:
            labels = None
        if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
            got = f"training batch: got {type(batch).__name__}; expected (images, labels)"
            warn_once(self, f"{got}. Its classes and angles are not checked")
            labels, self._seen = None, None
        if self._seen is not None and labels is not None:
            self._labels.append(labels)
            if len(self._labels) == LABELS_AT_ONCE:
                self._mark_seen(self._seen)
        if self._hook is None:
            return
        self._hook.remove()
        self._hook = None
        embeddings, self._embeddings = self._embeddings, None
        self._read_rates(trainer, pl_module)
        loss = loss_of(trainer, pl_module, outputs)
        # A compiled network may have bypassed the hook
        if embeddings is not None and labels is not None and len(labels) == len(embeddings) and loss is not None:
            self._read_step(trainer, pl_module, embeddings, labels, loss)

    def _mark_seen(self, seen: Tensor) -> None:
        if self._labels:
            labels = torch.cat(self._labels).long()
            outside = (labels < 0) | (labels >= len(seen) - 1)
            seen[labels.masked_fill(outside, len(seen) - 1)] = 1
            self._labels = []

    def _read_rates(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        groups = trainer.optimizers[0].param_groups if trainer.optimizers else []
        still = [str(group.get("name", number)) for number, group in enumerate(groups) if float(group["lr"]) == 0.0]
        self._judge(trainer, pl_module, "learning_rate", bool(still), groups=" and ".join(still))

    def _read_step(self, trainer: L.Trainer, pl_module: Any, embeddings: Tensor, labels: Tensor, loss: Tensor) -> None:
        head = getattr(pl_module, "head", None)
        length = embeddings.float().norm(dim=1).median()
        readings = [loss, length, _between_classes(embeddings, labels), *_target(head, embeddings, labels)]
        # Packed for a single host sync
        value, length, cosine, angle, untrained = torch.stack([each.double() for each in readings]).tolist()
        stuck = 0.9 * untrained <= value and trainer.current_epoch > 0
        scale = getattr(head, "scale_value", None)
        cause = "" if scale is None else f" (all angles at 90 degrees, scale {scale:g})"
        numbers = {"loss": value, "untrained": untrained, "cause": cause}
        self._judge(trainer, pl_module, "loss", stuck, LONG_IN_A_ROW, **numbers)
        cause = _NO_EXTENSION if getattr(head, "extension", None) == "none" else _WRONG_LABELS
        self._judge(trainer, pl_module, "angles", angle > 135, angle=angle, cause=cause)
        self._judge(trainer, pl_module, "collapse", cosine > 0.99, cosine=cosine)
        self._judge(trainer, pl_module, "long", length > 1e4 or math.isnan(length), length=length)
        self._judge(trainer, pl_module, "short", length < 1e-4, length=length)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Name the classes without an image in a whole epoch, over all processes."""
        if self._seen is None or self._num_batches < _batches_per_pass(trainer):
            return
        self._mark_seen(self._seen)
        seen = trainer.strategy.reduce(self._seen, reduce_op="sum").cpu()[:-1]
        self._classes_checked, self._seen = True, None
        missing = (seen == 0).nonzero().squeeze(1).tolist()
        if missing:
            names = class_names_of(trainer, len(seen))
            more = f" and {len(missing) - 10:,} more" if len(missing) > 10 else ""
            shown = ", ".join(names[label] for label in missing[:10]) + more
            self._advise(trainer, pl_module, "classes", num_missing=len(missing), num_classes=len(seen), names=shown)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start to count images."""
        self._num_validated = 0

    def on_scored_batch(self, trainer: L.Trainer, scored: ScoredBatch, batch: Any, batch_idx: int) -> None:
        """Count images."""
        self._num_validated += len(scored["labels"])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the accuracy to guessing."""
        accuracy = trainer.callback_metrics.get(f"{split_name(trainer)}/accuracy")
        whole = _batches_per_pass(trainer)  # an epoch may be limited to one batch, which teaches nothing
        done = self._num_trained >= whole or (trainer.current_epoch > 0 and whole == math.inf)
        if accuracy is None or trainer.state.fn != TrainerFn.FITTING or not done:
            return
        num_classes = num_classes_of(self, pl_module)
        if not num_classes or not self._num_validated:
            return
        guess = _guess(datamodule_of(trainer), num_classes)
        # Three standard deviations of what guessing would score on as many images.
        bound = guess + 3 * math.sqrt(guess * (1 - guess) / (self._num_validated * trainer.world_size))
        if float(accuracy) <= bound < 1:
            self._advise(trainer, pl_module, "accuracy", accuracy=float(accuracy), guess=guess)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Remove the hook if training stopped within a step, or a step failed."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    on_exception = on_train_end

    def _judge(
        self, trainer: L.Trainer, module: Any, name: str, is_bad: bool, in_a_row: int = IN_A_ROW, **values: Any
    ) -> None:
        """Advise if this reading and the ones before it were bad so many times in a row."""
        self._in_a_row[name] = self._in_a_row.get(name, 0) + 1 if is_bad else 0
        if self._in_a_row[name] >= in_a_row:
            self._advise(trainer, module, name, **values)

    def _advise(self, trainer: L.Trainer, pl_module: L.LightningModule, name: str, **values: Any) -> None:
        subject = "norms" if name in ("long", "short") else name
        self._say(trainer, pl_module, subject, _ADVICE[name].format(**values))

    def _say(self, trainer: L.Trainer, pl_module: L.LightningModule, name: str, message: str) -> None:
        if name in self._said:
            return
        self._said.add(name)
        pl_module.print(folded(f"health check, step {trainer.global_step}: {printable(message)}", sys.stdout))
        writer = writer_of(trainer)
        if writer is not None:
            writer.add_text(f"health/{name}", message, trainer.global_step)


def _batches_per_pass(trainer: L.Trainer) -> float:
    """Return how many batches are all training images, to whatever share of them an epoch is limited."""
    with suppress(TypeError, NotImplementedError):
        return len(trainer.train_dataloader)  # type: ignore[arg-type]
    return math.inf  # a loader without a length


def _between_classes(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cosine of images of different classes; NaN if the batch has a single class."""
    unit, labels = unit_rows(embeddings[:MAX_COMPARED].float()), labels[:MAX_COMPARED]
    different = labels[:, None] != labels
    return (unit @ unit.T * different).sum() / different.sum()


@torch.no_grad()
def _target(head: Any, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean angle to the target class in degrees, and the loss if all angles were 90 degrees."""
    unknown = embeddings.new_tensor(math.nan)
    num_classes = getattr(head, "num_classes", None)
    if not isinstance(head, AngularHead):
        return unknown, embeddings.new_tensor(math.log(max(num_classes, 2)) if num_classes else math.inf)
    was_training = head.training
    head.eval()  # or heads with running statistics would count this batch twice
    cosine = embeddings.new_zeros(len(labels), dtype=torch.float32)
    psi = head.psi(cosine, torch.ones_like(cosine), embeddings, labels).mean()
    head.train(was_training)
    untrained = math.log(max(head.num_classes - 1, 1)) - head.scale_value * psi
    if isinstance(head, ShardedHead):
        return unknown, untrained
    cosine, sine = head.target_angle(embeddings, labels)
    return torch.rad2deg(torch.atan2(sine, cosine)).mean(), untrained


def _guess(datamodule: Any, num_classes: int) -> float:
    """Return the accuracy of always predicting the most frequent class."""
    counts = fact(datamodule, "class_counts")
    return float(max(counts) / sum(counts)) if counts is not None and len(counts) else 1 / num_classes
