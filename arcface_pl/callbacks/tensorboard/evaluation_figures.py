"""What an evaluation found, in pictures: verification, the hardest mistakes, class centers, circle and sphere."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

from arcface_pl.callbacks.tensorboard.writer import add_figure, class_names_of, split_name, tensorboard_of
from arcface_pl.figures import ClosedSet, Evaluated, Mistakes, draw_all
from arcface_pl.functional.checks import check_count
from arcface_pl.metrics.functional import VerificationCurve, all_pairs_curve

__all__ = ["EvaluationFigures"]

MAX_MISTAKES = 24
MAX_CENTERS = 1000  # beyond, the centers' angles are only noise to the eye


class EvaluationFigures(L.Callback):
    """Draws, as training ends and after the test, what the last evaluation found.

    Those are the ROC and the spread of the scores over all pairs of some images, the hardest of all mistakes with their
    images and angles, the angles between the class centers, and embeddings of two or three dimensions. Everything was
    computed by the evaluation already; of several processes the first one's share of the images is shown. Without a
    TensorBoard logger nothing is drawn.

    Args:
        num_images: Images whose pairs are compared, evenly spread over the split, at least 2.

    Raises:
        ValueError: If it is out of range.
    """

    def __init__(self, num_images: int = 2000) -> None:
        check_count("num_images", num_images, low=2)
        self.num_images = num_images
        self._begin(0)

    def _begin(self, step: int) -> None:
        self._step = step
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._mistakes: Mistakes | None = None
        self._num_right: list[Tensor] = []
        self._num_images = 0
        self._centers: Tensor | None = None

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the last evaluation."""
        self._begin(trainer.global_step)
        head: Any = pl_module.head
        if head.num_classes <= MAX_CENTERS:
            self._centers = head.centers().detach().clone()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a fair share of the embeddings, and the hardest mistakes so far; the device is not waited for."""
        if tensorboard_of(trainer) is None or not trainer.is_global_zero:
            return
        images, labels = batch
        batches = sum(trainer.num_test_batches if trainer.testing else trainer.num_val_batches)
        wanted = min(len(labels), math.ceil(self.num_images / max(1, int(batches))))
        rows = torch.linspace(0, len(labels) - 1, wanted).round().long().to(labels.device)
        self._parts.append((outputs["embeddings"][rows], labels[rows]))
        self._num_images += len(labels)
        self._num_right.append((outputs["predictions"] == labels).sum())
        angles = outputs["target_angle"], outputs["predicted_angle"]
        found = Mistakes(images, labels, outputs["predictions"], *angles).hardest(MAX_MISTAKES)
        self._mistakes = found if self._mistakes is None else self._mistakes.joined(found).hardest(MAX_MISTAKES)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the last validation."""
        self._draw(trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the test."""
        self._draw(trainer, pl_module)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._mistakes is None:
            return
        head: Any = pl_module.head
        embeddings, labels = (torch.cat(part)[: self.num_images].cpu() for part in zip(*self._parts, strict=True))
        split = split_name(trainer)
        found = Evaluated(
            split,
            class_names_of(trainer, head.num_classes),
            embeddings,
            labels,
            curve=_curve(embeddings, labels),
            closed=ClosedSet(
                centers=self._centers,
                sub_centers=head.sub_centers,
                confusion=None,  # other callbacks count these over all processes
                angles=None,
                mistakes=self._mistakes.wrong_only(),
                num_wrong=self._num_images - int(torch.stack(self._num_right).sum()),
                num_images=self._num_images,
            ),
        )
        for name, figure in draw_all(found):
            add_figure(trainer, f"{split}/{name}", figure, self._step)
        self._begin(0)


def _curve(embeddings: Tensor, labels: Tensor) -> VerificationCurve | None:
    """Verify all pairs, where there are both genuine and impostor ones."""
    sizes = torch.bincount(labels)
    comparable = int(sizes.max()) > 1 and int((sizes > 0).sum()) > 1 and bool(embeddings.isfinite().all())
    return all_pairs_curve(embeddings, labels) if comparable else None
