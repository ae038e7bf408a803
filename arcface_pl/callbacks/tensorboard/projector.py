"""Embeddings with their images, for TensorBoard's projector."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from arcface_pl.callbacks.outputs import ScoredBatch, ScoredCallback, images_of, num_batches_of, share_of_rows
from arcface_pl.callbacks.tensorboard.writer import (
    class_names_of,
    draw_at_end,
    split_name,
    tensorboard_of,
    writer_of,
)
from arcface_pl.figures import displayable, tinted
from arcface_pl.functional.checks import check_count
from arcface_pl.metrics.functional.cosine import unit_rows


class EmbeddingProjector(ScoredCallback):
    """Shows embeddings of validation images in TensorBoard's projector, with class names and the images themselves.

    Uses the embeddings of the last validation, normalized, since the head only sees their direction. Of several
    processes rank 0's images are shown. Writes only into a TensorBoard logger.

    Args:
        num_images: Images to show, evenly spread over the validation split, at least 1; the page stays responsive up to
            about a thousand.
        every_n_epochs: Also show them every n epochs; 0 for the end of training only.

    Raises:
        ValueError: If a value is out of range.
    """

    needs = ("labels", "predictions", "embeddings")

    def __init__(self, num_images: int = 1000, every_n_epochs: int = 0) -> None:
        check_count("num_images", num_images, low=1)
        check_count("every_n_epochs", every_n_epochs, low=0)
        self.num_images = num_images
        self.every_n_epochs = every_n_epochs
        self._parts: list[tuple[Tensor, ...]] = []
        self._step = 0

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the last validation."""
        self._parts, self._step = [], trainer.global_step

    def wants(self, trainer: L.Trainer) -> bool:
        """Return whether this process draws."""
        return tensorboard_of(trainer) is not None and trainer.is_global_zero

    def on_scored_batch(self, trainer: L.Trainer, scored: ScoredBatch, batch: Any, batch_idx: int) -> None:
        """Keep this batch's share of the images."""
        like = self._parts[0][0] if self._parts else None
        images = images_of(self, trainer, batch, len(scored["labels"]), like)
        if images is None:
            return
        rows = share_of_rows(scored["labels"], self.num_images, num_batches_of(trainer), batch_idx)
        kept = (images, scored["labels"], scored["predictions"], scored["embeddings"])
        self._parts.append(tuple(each[rows.to(each.device)].cpu() for each in kept))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show them if this epoch is one of every n."""
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._drawing(trainer)()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show them at the end of training."""
        draw_at_end(trainer, self._drawing(trainer))

    def _drawing(self, trainer: L.Trainer) -> Callable[[], None]:
        """Return what writes the last validation's embeddings, which are forgotten here."""
        writer = writer_of(trainer)
        if writer is None or not self._parts:
            return lambda: None
        parts = (torch.cat(part)[: self.num_images] for part in zip(*self._parts, strict=True))
        images, labels, predictions, embeddings = parts
        names = class_names_of(trainer, 1 + max(0, int(labels.max()), int(predictions.max())))
        step, tag = self._step, f"{split_name(trainer)}_embeddings"

        def draw() -> None:
            writer.add_embedding(
                # Stored as text: five decimals load twice as fast as full precision
                unit_rows(embeddings.double()).round(decimals=5),
                metadata=[[names[label], names[taken]] for label, taken in zip(labels, predictions, strict=True)],
                metadata_header=["class", "predicted"],
                # In the class's color from the start: the projector colors nothing before it is asked to
                label_img=tinted(displayable(images), labels),
                global_step=step,
                tag=tag,
            )

        self._parts = []  # the end of training need not show them again
        return draw
