"""Confusion matrix of each validation and of the test."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from arcface_pl.callbacks.outputs import ScoredBatch, ScoredCallback, num_classes_of
from arcface_pl.callbacks.tensorboard.writer import add_figure, class_names_of, draw_at_end, shows_figures, split_name
from arcface_pl.figures import draw_confusion
from arcface_pl.figures.confusion import count_confusions
from arcface_pl.functional.checks import check_count
from arcface_pl.functional.process_group import Group


class ConfusionMatrix(ScoredCallback):
    """Draws a confusion matrix after each validation and after the test; beyond 50 classes the top confusions.

    Predictions are made without the label. Counts are summed over all processes; only the pairs of classes that occur
    are counted, so that memory grows with the images, not with the square of the classes. Draws into every logger that
    can show pictures.

    Args:
        every_n_epochs: Draw every n epochs, at least 1. The test is always drawn.

    Raises:
        ValueError: If ``every_n_epochs`` is out of range.
    """

    needs = ("labels", "predictions")

    def __init__(self, every_n_epochs: int = 1) -> None:
        check_count("every_n_epochs", every_n_epochs, low=1)
        self.every_n_epochs = every_n_epochs
        self._num_classes: int | None = None
        self._cells: list[Tensor] = []

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting if this epoch is to be drawn."""
        due = trainer.testing or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        self._num_classes = num_classes_of(self, pl_module) if due else None
        self._cells = [torch.empty(0, dtype=torch.int64, device=pl_module.device)]  # a process may have no batch

    def wants(self, trainer: L.Trainer) -> bool:
        """Return whether this epoch is to be drawn."""
        return self._num_classes is not None

    def on_scored_batch(self, trainer: L.Trainer, scored: ScoredBatch, batch: Any, batch_idx: int) -> None:
        """Keep a batch's (label, prediction) pairs, as one number each and without a host sync."""
        assert self._num_classes is not None
        pairs = torch.stack((scored["labels"].long(), scored["predictions"].long()))
        inside = ((pairs >= 0) & (pairs < self._num_classes)).all(0)
        self._cells.append(torch.where(inside, pairs[0] * self._num_classes + pairs[1], -1))  # -1: no class of the head

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count over processes and draw."""
        if self._num_classes is None:
            return
        cells, counts = torch.cat(self._cells).unique(return_counts=True)
        self._cells, group = [], Group()  # collective from here on: every process calls it
        found = torch.stack((cells, counts), 1)
        cells, counts = group.gather(found, group.sizes(found)).cpu().unbind(1)
        known = cells >= 0
        if not shows_figures(trainer) or not trainer.is_global_zero or trainer.sanity_checking or not known.any():
            return
        number, split, step = self._num_classes, split_name(trainer), trainer.global_step
        cells = cells[known]
        confusion = count_confusions(cells // number, cells % number, number, counts[known])
        names = class_names_of(trainer, number)

        def draw() -> None:
            add_figure(trainer, f"{split}/confusion_matrix", draw_confusion(confusion, names, split), step)

        if trainer.testing:
            draw_at_end(trainer, draw)
        else:
            draw()  # while training, each epoch's is there to be looked at

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = ScoredCallback.on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
