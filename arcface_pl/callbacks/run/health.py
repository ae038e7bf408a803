"""Says in words when a run goes wrong, and what to do about it."""

import math
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from arcface_pl.callbacks.tensorboard.writer import class_names_of, datamodule_of, split_name, writer_of
from arcface_pl.heads import AngularHead, ShardedHead

__all__ = ["HealthCheck"]

IN_A_ROW = 3  # readings before something is said: a first one may be a start that the run recovers from
LONG_IN_A_ROW = 10
MAX_COMPARED = 256  # rows of a batch whose pairs are compared


class HealthCheck(L.Callback):
    """Watches for what goes wrong in training with angular margins, and says each thing once, with what to do.

    * The loss stays where a network is that has learnt nothing, near ``scale`` times the margin's cost.
    * Embeddings turn away from their own class: a mean angle beyond 135 degrees.
    * Embeddings collapse: images of different classes have cosines of 0.99 in the mean.
    * Embeddings' lengths explode or vanish.
    * A learning rate is zero, or a class never appears in an epoch.
    * Accuracy on validation is no better than guessing after an epoch.

    What it looks at is there already: it reads a step every ``log_every_n_steps`` and waits for the device only then,
    and draws no random number. Messages go to the console and to TensorBoard's Text tab as ``health/...``.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._in_a_row: dict[str, int] = {}
        self._embeddings: Tensor | None = None
        self._hook: Any = None
        self._seen: Tensor | None = None
        self._classes_checked = False
        self._num_batches = 0
        self._num_validated = 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to watch which classes appear, in the first epoch."""
        head: Any = pl_module.head
        watching = not self._classes_checked
        self._seen = torch.zeros(head.num_classes, dtype=torch.int32, device=pl_module.device) if watching else None
        self._num_batches = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Where this step is one to be read, catch the embeddings on their way to the head."""
        if (trainer.global_step + 1) % _interval(trainer) == 0:
            backbone: Any = pl_module.backbone
            self._hook = backbone.register_forward_hook(self._catch)

    def _catch(self, backbone: Any, images: Any, embeddings: Tensor) -> None:
        self._embeddings = embeddings.detach()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the step."""
        labels = batch[1]
        self._num_batches += 1
        if self._seen is not None:
            self._seen[labels.long()] = 1
        if self._hook is None:
            return
        self._release()
        embeddings, self._embeddings = self._embeddings, None
        self._read_rates(trainer, pl_module)
        if embeddings is not None:  # a network that compiles itself may pass the hook by
            loss = outputs["loss"].detach() * trainer.accumulate_grad_batches  # Lightning has divided by it
            self._read_step(trainer, pl_module, embeddings, labels, loss)

    def _read_rates(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        groups = trainer.optimizers[0].param_groups if trainer.optimizers else []
        still = [str(group.get("name", number)) for number, group in enumerate(groups) if float(group["lr"]) == 0.0]
        if self._row("rate", bool(still)) >= IN_A_ROW:
            self._say(trainer, pl_module, "learning_rate", _advise_learning_rate(still))

    def _read_step(self, trainer: L.Trainer, pl_module: Any, embeddings: Tensor, labels: Tensor, loss: Tensor) -> None:
        head = pl_module.head
        length = embeddings.float().norm(dim=1).median()
        readings = [loss, length, _between_classes(embeddings, labels), *_own(head, embeddings, labels)]
        # Packed, so that the device is waited for once.
        value, length, cosine, angle, untrained = torch.stack([each.double() for each in readings]).tolist()
        stuck = 0.9 * untrained <= value and trainer.current_epoch > 0
        if self._row("stuck", stuck) >= LONG_IN_A_ROW:
            self._say(
                trainer, pl_module, "loss", _advise_stuck_loss(value, untrained, getattr(head, "scale_value", None))
            )
        if self._row("angle", angle > 135) >= IN_A_ROW:
            self._say(
                trainer,
                pl_module,
                "angles",
                _advise_opposite(angle, unguarded=getattr(head, "extension", None) == "none"),
            )
        if self._row("cosine", cosine > 0.99) >= IN_A_ROW:
            self._say(trainer, pl_module, "collapse", _advise_collapse(cosine))
        if self._row("long", length > 1e4 or math.isnan(length)) >= IN_A_ROW:
            self._say(trainer, pl_module, "norms", _advise_long(length))
        if self._row("short", length < 1e-4) >= IN_A_ROW:
            self._say(trainer, pl_module, "norms", _advise_short(length))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Name the classes that a whole epoch did not show, over all processes."""
        if self._seen is None or not _is_whole(trainer, self._num_batches):
            return
        seen = trainer.strategy.reduce(self._seen, reduce_op="sum").cpu()
        self._classes_checked, self._seen = True, None
        missing = (seen == 0).nonzero().squeeze(1).tolist()
        if missing:
            names = class_names_of(trainer, len(seen))
            self._say(trainer, pl_module, "classes", _advise_missing([names[label] for label in missing], len(seen)))

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count images."""
        self._num_validated = 0

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count images."""
        self._num_validated += len(batch[1])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hold the accuracy against guessing."""
        accuracy = trainer.callback_metrics.get(f"{split_name(trainer)}/accuracy")
        done = trainer.current_epoch > 0 or _is_whole(trainer, trainer.fit_loop.batch_idx + 1)
        if accuracy is None or trainer.state.fn != TrainerFn.FITTING or not done:
            return
        head: Any = pl_module.head
        guess = _guess(datamodule_of(trainer), head.num_classes)
        # Three standard deviations of what guessing would score on as many images.
        bound = guess + 3 * math.sqrt(guess * (1 - guess) / max(1, self._num_validated * trainer.world_size))
        if float(accuracy) <= bound < 1:
            self._say(trainer, pl_module, "accuracy", _advise_guessing(float(accuracy), guess))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave no hook behind where training stopped within a step."""
        self._release()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave no hook behind where a step failed."""
        self._release()

    def _release(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _row(self, name: str, is_bad: bool) -> int:
        self._in_a_row[name] = self._in_a_row.get(name, 0) + 1 if is_bad else 0
        return self._in_a_row[name]

    def _say(self, trainer: L.Trainer, pl_module: L.LightningModule, name: str, message: str) -> None:
        if name in self._said:
            return
        self._said.add(name)
        pl_module.print(f"health check, step {trainer.global_step}: {message}")
        writer = writer_of(trainer)
        if writer is not None:
            writer.add_text(f"health/{name}", message, trainer.global_step)


def _is_whole(trainer: L.Trainer, num_batches: int) -> bool:
    """Say whether an epoch of so many batches has shown all training images."""
    return num_batches == trainer.num_training_batches and trainer.limit_train_batches in (None, 1.0)


def _interval(trainer: L.Trainer) -> int:
    return trainer.log_every_n_steps or 1  # type: ignore[attr-defined]  # set where mypy does not look


def _between_classes(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cosine of two images of different classes; NaN where a batch has one class only."""
    unit, labels = F.normalize(embeddings[:MAX_COMPARED].float(), dim=1), labels[:MAX_COMPARED]
    different = labels[:, None] != labels
    return (unit @ unit.T * different).sum() / different.sum()


@torch.no_grad()
def _own(head: Any, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean angle to the own class in degrees, and the loss if all angles were 90 degrees."""
    unknown = embeddings.new_tensor(math.nan)
    untrained = embeddings.new_tensor(math.log(max(head.num_classes, 2)))
    if not isinstance(head, AngularHead):
        return unknown, untrained
    was_training = head.training
    head.eval()  # or heads that gather statistics would count this batch twice
    cosine = embeddings.new_zeros(len(labels), dtype=torch.float32)
    psi = head.psi(cosine, torch.ones_like(cosine), embeddings, labels).mean()
    head.train(was_training)
    untrained = math.log(max(head.num_classes - 1, 1)) - head.scale_value * psi
    if isinstance(head, ShardedHead):
        return unknown, untrained
    cosine, sine = head.own_angle(embeddings, labels)
    return torch.rad2deg(torch.atan2(sine, cosine)).mean(), untrained


def _guess(datamodule: Any, num_classes: int) -> float:
    """Return the accuracy of always naming the commonest class."""
    counts = getattr(datamodule, "class_counts", None)
    return max(counts) / sum(counts) if counts else 1 / num_classes


_SLOWER = "a lower learning rate (--model.optimizer.lr)"


def _advise_stuck_loss(loss: float, untrained: float, scale: float | None) -> str:
    """Say that the loss does not fall."""
    cause = "" if scale is None else f" (all angles at 90 degrees; the scale is {scale:g})"
    return (
        f"the loss is {loss:.1f}, where a network that has learnt nothing stands at {untrained:.1f}{cause}. Try "
        f"{_SLOWER}, a margin that grows (--model.head.margin_warmup_epochs 2), or a smaller margin or "
        "scale (--model.head.margin, --model.head.scale)."
    )


def _advise_opposite(angle: float, *, unguarded: bool) -> str:
    """Say that embeddings turn away from their class."""
    cause = (
        "The head's extension is none: past pi minus the margin its loss falls again, so that pi is a minimum. Use "
        "--model.head.extension monotone."
        if unguarded
        else f"Try {_SLOWER}, and look whether the labels fit the images."
    )
    return f"embeddings lie {angle:.0f} degrees from the center of their own class, turned away from it. {cause}"


def _advise_collapse(cosine: float) -> str:
    """Say that all embeddings are the same."""
    return (
        f"images of different classes have nearly the same embedding (mean cosine {cosine:.4f}). Look whether the "
        f"images still differ after preprocessing and normalisation, and try {_SLOWER}."
    )


def _advise_long(length: float) -> str:
    """Say that embeddings are too long."""
    return (
        f"embeddings have a median length of {length:.3g}: the network's weights explode, and the longer an embedding, "
        f"the less a step turns it. Try {_SLOWER}, weight decay (--model.optimizer.weight_decay) or "
        "--gradient_clip_val 1."
    )


def _advise_short(length: float) -> str:
    """Say that embeddings are too short."""
    return (
        f"embeddings have a median length of {length:.3g}: hardly a direction is left, and nothing can be learnt from "
        f"it. Try {_SLOWER} or less weight decay, and look whether the images are all black."
    )


def _advise_missing(names: list[str], num_classes: int) -> str:
    """Name the classes that never appear."""
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
    return (
        f"{len(names):,} of {num_classes:,} classes had no image in a whole epoch: {shown}. They are never learnt, and "
        "their centers only push the others away. Look whether the training part has their images, or leave them out."
    )


def _advise_learning_rate(groups: list[str]) -> str:
    """Say whose learning rate is zero."""
    return (
        f"the learning rate of {' and '.join(groups)} is 0, so that nothing is learnt there. Look at "
        "--model.optimizer.lr, --model.head_lr and --model.lr_schedule."
    )


def _advise_guessing(accuracy: float, guess: float) -> str:
    """Say that accuracy is that of guessing."""
    return (
        f"accuracy on validation is {accuracy:.2%}, not to be told from guessing ({guess:.2%} by always naming the "
        "commonest class). If the loss falls all the same, look whether training and validation images are "
        "preprocessed alike and the labels are right; if it does not, try another learning rate (--model.optimizer.lr)."
    )
