"""Embeddings with their images, for TensorBoard's projector."""

import math
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from arcface_pl.callbacks.tensorboard.writer import class_names_of, split_name, tensorboard_of, writer_of
from arcface_pl.figures import displayable
from arcface_pl.functional.checks import check_count

__all__ = ["EmbeddingProjector"]


class EmbeddingProjector(L.Callback):
    """Shows embeddings of validation images in TensorBoard's projector, with class names and the images themselves.

    The embeddings are those that the last validation has computed, so that nothing is computed for the picture. They
    are scaled to length one, since the head looks at their direction alone. Of several processes the first one's images
    are shown. Without validation, or without a TensorBoard logger, nothing is.

    Args:
        num_images: Images to show, evenly spread over the validation split, at least 1; about a thousand stay quick.
        every_n_epochs: Show them every so many epochs too; 0 for the end of training only.

    Raises:
        ValueError: If a value is out of range.
    """

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

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a fair share of the batch: a split may be sorted by class."""
        if tensorboard_of(trainer) is None or not trainer.is_global_zero:
            return
        images, labels = batch
        wanted = math.ceil(self.num_images / max(1, int(sum(trainer.num_val_batches))))
        rows = torch.linspace(0, len(labels) - 1, min(wanted, len(labels))).round().long()
        kept = (images, labels, outputs["predictions"], outputs["embeddings"])
        self._parts.append(tuple(each[rows.to(each.device)].cpu() for each in kept))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show them where this epoch is one of every n."""
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show them as training ends."""
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        writer = writer_of(trainer)
        if writer is None or not self._parts:
            return
        parts = (torch.cat(part)[: self.num_images] for part in zip(*self._parts, strict=True))
        images, labels, predictions, embeddings = parts
        names = class_names_of(trainer, int(max(labels.max(), predictions.max())) + 1)
        writer.add_embedding(
            # Five decimals: as text, all that a float holds would be twice as much to load.
            F.normalize(embeddings.double(), dim=1).round(decimals=5),
            metadata=[[names[label], names[taken]] for label, taken in zip(labels, predictions, strict=True)],
            metadata_header=["class", "predicted"],
            # Of these grey ones are dark ink: the projector tints paper in the class's colour, which black would hide.
            label_img=displayable(images),
            global_step=self._step,
            tag=f"{split_name(trainer)}_embeddings",
        )
        self._parts = []  # shown: the end of training need not show them again
