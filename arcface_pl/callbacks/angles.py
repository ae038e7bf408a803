"""How far embeddings are from their own class and from the nearest other one, as histograms."""

from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor

from arcface_pl.callbacks.tensorboard import split_name, writer_of
from arcface_pl.functional._checks import check_count

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["AngleHistograms"]

DEGREES = 180


class AngleHistograms(L.Callback):
    """Draws, after each validation, two histograms of angles in degrees, one bin a degree.

    ``angle/target_degrees`` is the angle between an embedding and the center of its own class,
    ``angle/nearest_other_degrees`` the one to the nearest other class. An image is classified rightly when the first is
    the smaller: training pulls the two apart. Counts are added up over all processes. Without a TensorBoard logger
    nothing is drawn.

    Args:
        every_n_epochs: Draw in every so many epochs, at least 1.

    Raises:
        ValueError: If it is out of range.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        check_count("every_n_epochs", every_n_epochs, low=1)
        self.every_n_epochs = every_n_epochs
        self._counts: dict[str, Tensor] = {}

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting, where this epoch is one of every n."""
        self._counts = {}
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        self._counts = {
            name: torch.zeros(DEGREES, dtype=torch.int64, device=pl_module.device)
            for name in ("target", "nearest_other")
        }

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch's angles."""
        for name, counts in self._counts.items():
            bins = outputs[f"{name}_angle"].long().clamp(0, DEGREES - 1)
            counts += torch.bincount(bins, minlength=DEGREES)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add up over processes and draw."""
        prefix = "angle" if split_name(trainer) == "val" else f"{split_name(trainer)}/angle"
        for name, counts in self._counts.items():
            total = trainer.strategy.reduce(counts, reduce_op="sum").cpu()  # every process takes part
            writer = writer_of(trainer)
            if writer is not None and not trainer.sanity_checking:
                _draw(writer, f"{prefix}/{name}_degrees", total.float(), trainer.global_step)


def _draw(writer: "SummaryWriter", tag: str, counts: Tensor, step: int) -> None:
    filled = counts.nonzero()
    if not len(filled):
        return
    # TensorBoard shows 30 bins of whatever range it is given: the empty ends would cost resolution.
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
