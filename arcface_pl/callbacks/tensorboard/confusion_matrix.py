"""Which class is taken for which, as a picture."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from arcface_pl.callbacks.tensorboard.writer import add_figure, class_names_of, split_name, writer_of
from arcface_pl.figures import draw_confusion
from arcface_pl.functional.checks import check_count

__all__ = ["ConfusionMatrix"]

# Beyond this many classes the counts would take more than 32 MB.
MAX_CLASSES = 2000


class ConfusionMatrix(L.Callback):
    """Draws a confusion matrix after each validation and after the test; of many classes the commonest confusions.

    Predictions are honest ones, made without the label. Counts are added up over all processes. Without a TensorBoard
    logger, or with more than 2,000 classes, nothing is drawn.

    Args:
        every_n_epochs: Draw in every so many epochs, at least 1. After the test it is drawn in any case.

    Raises:
        ValueError: If it is out of range.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        check_count("every_n_epochs", every_n_epochs, low=1)
        self.every_n_epochs = every_n_epochs
        self._counts: Tensor | None = None

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting, where this epoch is one of every n."""
        self._counts = None
        head: Any = pl_module.head
        due = trainer.testing or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due and head.num_classes <= MAX_CLASSES:
            shape = (head.num_classes, head.num_classes)
            self._counts = torch.zeros(shape, dtype=torch.int64, device=pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch's (label, prediction) pairs."""
        if self._counts is not None:
            pairs = outputs["labels"] * len(self._counts) + outputs["predictions"]
            self._counts += torch.bincount(pairs, minlength=self._counts.numel()).view_as(self._counts)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add up over processes and draw."""
        if self._counts is None:
            return
        counts = trainer.strategy.reduce(self._counts, reduce_op="sum").cpu()  # every process takes part
        if writer_of(trainer) is None or trainer.sanity_checking:
            return
        split = split_name(trainer)
        figure = draw_confusion(counts, class_names_of(trainer, len(counts)), split)
        add_figure(trainer, f"{split}/confusion_matrix", figure, trainer.global_step)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
