"""Histograms of the angles to the target class and to the nearest other class."""

from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor

from arcface_pl.callbacks.outputs import ScoredBatch, ScoredCallback
from arcface_pl.callbacks.tensorboard.writer import add_figure, draw_at_end, shows_figures, split_name, writer_of
from arcface_pl.figures import AngleHistory, count_degrees, draw_angle_history
from arcface_pl.functional.checks import check_count

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NAMES = ("target", "nearest_other")


class AngleHistograms(ScoredCallback):
    """Draws two histograms of angles after each validation, with one bin per degree.

    ``val/angle/target_degrees`` is the angle between an embedding and the center of its target class,
    ``val/angle/nearest_other_degrees`` the angle to the nearest center of another class. A prediction is correct if the
    former is smaller; training pulls the two apart. At the end of training ``val/angle/over_training`` shows how they
    moved. Counts are summed over all processes and stored in the checkpoint. Draws only into a TensorBoard logger.

    Args:
        every_n_epochs: Draw every n epochs, at least 1.

    Raises:
        ValueError: If ``every_n_epochs`` is out of range.
    """

    needs = tuple(f"{name}_angle" for name in NAMES)

    def __init__(self, every_n_epochs: int = 1) -> None:
        check_count("every_n_epochs", every_n_epochs, low=1)
        self.every_n_epochs = every_n_epochs
        self._counts: dict[str, Tensor] = {}
        self._history: dict[int, tuple[Tensor, ...]] = {}
        self._last = ("", 0)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting if this epoch is to be drawn."""
        self._counts = {}
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        self._counts = {name: torch.zeros(180, dtype=torch.int64, device=pl_module.device) for name in NAMES}

    def wants(self, trainer: L.Trainer) -> bool:
        """Return whether this epoch is to be drawn."""
        return bool(self._counts)

    def on_scored_batch(self, trainer: L.Trainer, scored: ScoredBatch, batch: Any, batch_idx: int) -> None:
        """Count a batch's angles."""
        for name, counts in self._counts.items():
            counts += count_degrees(scored[f"{name}_angle"])  # type: ignore[literal-required]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sum over processes and draw."""
        prefix = f"{split_name(trainer)}/angle"
        # A collective call: every process reaches it
        totals = {name: trainer.strategy.reduce(counts, reduce_op="sum").cpu() for name, counts in self._counts.items()}
        if trainer.sanity_checking or not any(total.any() for total in totals.values()):
            return
        self._history[trainer.current_epoch + 1] = tuple(totals.values())
        self._last = (prefix, trainer.global_step)
        writer = writer_of(trainer)
        if writer is not None:
            for name, total in totals.items():
                _draw(writer, f"{prefix}/{name}_degrees", total.float(), trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the angles over all epochs."""
        prefix, step = self._last
        if prefix and shows_figures(trainer) and trainer.is_global_zero:
            history = AngleHistory(**self.state_dict())
            tag = f"{prefix}/over_training"
            draw_at_end(trainer, lambda: add_figure(trainer, tag, draw_angle_history(history), step))

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of every epoch, the fields of an `AngleHistory`."""
        if not self._history:
            return {}
        target, nearest_other = (torch.stack(each) for each in zip(*self._history.values(), strict=True))
        return {"epochs": torch.tensor(list(self._history)), "target": target, "nearest_other": nearest_other}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the epochs before the interruption."""
        if state_dict:
            epochs, *counts = AngleHistory(**state_dict)
            self._history = dict(zip(epochs.tolist(), zip(*counts, strict=True), strict=True))


def angle_history_of(checkpoint: dict[str, Any]) -> AngleHistory | None:
    """Return the history of angles that a checkpoint holds, or None."""
    state = checkpoint.get("callbacks", {}).get(AngleHistograms.__qualname__)
    return AngleHistory(**state) if state else None


def _draw(writer: "SummaryWriter", tag: str, counts: Tensor, step: int) -> None:
    filled = counts.nonzero()
    if not len(filled):
        return
    # TensorBoard shows 30 bins of the given range: empty ends would cost resolution
    low, high = int(filled.min()), int(filled.max()) + 1
    counts = counts[low:high]
    middle = torch.arange(low, high) + 0.5
    writer.add_histogram_raw(
        tag,
        min=low,
        max=high,
        num=int(counts.sum()),
        sum=float(counts @ middle),
        sum_squares=float(counts @ middle**2),
        bucket_limits=list(range(low + 1, high + 1)),
        bucket_counts=counts.tolist(),
        global_step=step,
    )
