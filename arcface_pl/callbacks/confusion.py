"""Which class is taken for which, as a picture."""

from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from arcface_pl.callbacks.tensorboard import class_names_of, split_name, writer_of
from arcface_pl.functional._checks import check_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ConfusionMatrix", "draw_confusion"]

# Beyond this many classes no cell can be read.
MAX_CLASSES = 50


class ConfusionMatrix(L.Callback):
    """Draws a confusion matrix after each validation and after the test.

    Predictions are honest ones, made without the label. Counts are added up over all processes. Without a TensorBoard
    logger, or with more than 50 classes, nothing is drawn.

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
        writer = writer_of(trainer)
        if writer is None or trainer.sanity_checking:
            return
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        split = split_name(trainer)
        figure = draw_confusion(counts.numpy(), class_names_of(trainer, len(counts)), split)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        writer.add_image(f"{split}/confusion_matrix", pixels, trainer.global_step, dataformats="HWC")

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end


def draw_confusion(counts: np.ndarray, class_names: list[str], split: str) -> "Figure":
    """Draw a confusion matrix: counts in the cells, colour by the share of the true class.

    Args:
        counts: (C, C) integers, true class by predicted class.
        class_names: C names.
        split: What was counted, for the title.

    Returns:
        A figure of its own: nothing of matplotlib's global state is touched.
    """
    # Half a second that a run without TensorBoard need not wait for.
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    classes = len(counts)
    side = 0.36 * classes
    long_names = max(map(len, class_names)) > 3
    # Small, so that the figures can be read in the thumbnails of TensorBoard's Images tab.
    figure = Figure(figsize=(side + 1.5, side + 1.0), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The square root lets a handful of errors show beside a diagonal near 100%.
    picture = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
    figure.colorbar(picture, ax=axes, label="share of the true class (%)", ticks=[0, 1, 10, 50, 100])
    for row, column in np.argwhere(counts):
        colour = "white" if share[row, column] > 30 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(
        range(classes), class_names, rotation=45 if long_names else 0, ha="right" if long_names else "center"
    )
    axes.set_yticks(range(classes), class_names)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{split}: {counts.trace():,} of {counts.sum():,} right")
    return figure
