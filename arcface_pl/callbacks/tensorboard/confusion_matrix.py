"""Confusion matrix of each validation and of the test."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from arcface_pl.callbacks.outputs import ScoredBatch, ScoredCallback, num_classes_of
from arcface_pl.callbacks.tensorboard.writer import add_figure, class_names_of, shows_figures, split_name
from arcface_pl.figures import draw_confusion
from arcface_pl.functional.checks import check_count

# More classes would need more than 32 MB of counts
MAX_CLASSES = 2000


class ConfusionMatrix(ScoredCallback):
    """Draws a confusion matrix after each validation and after the test; beyond 50 classes the top confusions.

    Predictions are made without the label. Counts are summed over all processes. Draws only into a TensorBoard logger
    and for at most 2,000 classes.

    Args:
        every_n_epochs: Draw every n epochs, at least 1. The test is always drawn.

    Raises:
        ValueError: If ``every_n_epochs`` is out of range.
    """

    needs = ("labels", "predictions")

    def __init__(self, every_n_epochs: int = 1) -> None:
        check_count("every_n_epochs", every_n_epochs, low=1)
        self.every_n_epochs = every_n_epochs
        self._counts: Tensor | None = None

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting if this epoch is to be drawn."""
        self._counts = None
        due = trainer.testing or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        num_classes = num_classes_of(self, pl_module) if due else None
        if num_classes is not None and num_classes <= MAX_CLASSES:
            self._counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=pl_module.device)

    def wants(self, trainer: L.Trainer) -> bool:
        """Return whether this epoch is to be drawn."""
        return self._counts is not None

    def on_scored_batch(self, trainer: L.Trainer, scored: ScoredBatch, batch: Any, batch_idx: int) -> None:
        """Count a batch's (label, prediction) pairs."""
        assert self._counts is not None
        num_classes = len(self._counts)
        pairs = torch.stack((scored["labels"].long(), scored["predictions"].long()))
        inside = ((pairs >= 0) & (pairs < num_classes)).all(0)
        # What is no class of the head is counted in one cell more, and not drawn
        cells = torch.where(inside, pairs[0] * num_classes + pairs[1], num_classes**2)
        self._counts += torch.bincount(cells, minlength=num_classes**2 + 1)[:-1].view_as(self._counts)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sum over processes and draw."""
        if self._counts is None:
            return
        counts = trainer.strategy.reduce(self._counts, reduce_op="sum").cpu()  # collective: every process calls it
        if not shows_figures(trainer) or not trainer.is_global_zero or trainer.sanity_checking or not counts.any():
            return
        split = split_name(trainer)
        figure = draw_confusion(counts, class_names_of(trainer, len(counts)), split)
        add_figure(trainer, f"{split}/confusion_matrix", figure, trainer.global_step)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = ScoredCallback.on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
