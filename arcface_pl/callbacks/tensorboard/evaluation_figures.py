"""Figures of the last evaluation: verification, the worst mistakes, class centers, circle and sphere."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from arcface_pl.callbacks.outputs import (
    ScoredBatch,
    ScoredCallback,
    images_of,
    num_batches_of,
    num_classes_of,
    scored_batch,
    share_of_rows,
)
from arcface_pl.callbacks.tensorboard.writer import add_figure, class_names_of, draw_at_end, shows_figures, split_name
from arcface_pl.figures import ClosedSet, Evaluated, Mistakes, draw_all
from arcface_pl.functional.checks import check_count
from arcface_pl.metrics.functional import VerificationCurve, all_pairs_curve

MAX_MISTAKES = 24
MAX_CENTERS = 20_000  # all pairs of more take too long


class EvaluationFigures(ScoredCallback):
    """Draws figures of the last evaluation, at the end of training and after the test.

    ROC and score histogram over all pairs of some images, the worst mistakes with their images and angles, the angles
    between class centers, and embeddings of two or three dimensions. Nothing is computed a second time for them; of
    several processes rank 0's images are shown. Draws into every logger that can show pictures.

    Args:
        num_images: Images whose pairs are compared, evenly spread over the split, at least 2.

    Raises:
        ValueError: If ``num_images`` is out of range.
    """

    needs = ("embeddings", "labels")

    def __init__(self, num_images: int = 2000) -> None:
        check_count("num_images", num_images, low=2)
        self.num_images = num_images
        self._begin(0)  # training may end without a validation

    def _begin(self, step: int) -> None:
        self._step = step
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._mistakes: Mistakes | None = None
        self._num_wrong: list[Tensor] = []
        self._num_images = 0
        self._centers: Tensor | None = None

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the last evaluation."""
        self._begin(trainer.global_step)
        head: Any = getattr(pl_module, "head", None)
        if hasattr(head, "centers") and (num_classes_of(self, pl_module) or 0) <= MAX_CENTERS:
            self._centers = head.centers().detach().clone()

    def wants(self, trainer: L.Trainer) -> bool:
        """Return whether this process draws."""
        return shows_figures(trainer) and trainer.is_global_zero

    def on_scored_batch(self, trainer: L.Trainer, scored: ScoredBatch, batch: Any, batch_idx: int) -> None:
        """Keep this batch's share of the embeddings and the worst mistakes so far, without a host sync."""
        labels = scored["labels"]
        rows = share_of_rows(labels, self.num_images, num_batches_of(trainer), batch_idx)
        self._parts.append((scored["embeddings"][rows], labels[rows]))
        found = scored_batch(self, scored, "labels", "predictions", "target_angle", "predicted_angle")
        images = images_of(self, trainer, batch, len(labels), None if self._mistakes is None else self._mistakes.images)
        if found is None or images is None:
            return
        self._num_images += len(labels)
        self._num_wrong.append((found["predictions"] != labels).sum())
        angles = found["target_angle"], found["predicted_angle"]
        mistakes = Mistakes(images, labels, found["predictions"], *angles).hardest(MAX_MISTAKES)
        self._mistakes = mistakes if self._mistakes is None else self._mistakes.joined(mistakes).hardest(MAX_MISTAKES)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the last validation."""
        self._draw(trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the test."""
        self._draw(trainer, pl_module)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = ScoredCallback.on_validation_batch_end

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._parts:
            return
        embeddings, labels = (torch.cat(part)[: self.num_images].cpu() for part in zip(*self._parts, strict=True))
        split = split_name(trainer)
        num_classes = num_classes_of(self, pl_module) or 1 + int(labels.max())
        closed = None
        if self._mistakes is not None:
            closed = ClosedSet(
                centers=self._centers,
                sub_centers=getattr(pl_module.head, "sub_centers", 1),
                confusion=None,  # other callbacks count these over all processes
                angles=None,
                mistakes=self._mistakes.wrong_only(),
                num_wrong=int(torch.stack(self._num_wrong).sum()),
                num_images=self._num_images,
            )
        names, step = class_names_of(trainer, num_classes), self._step

        def draw() -> None:
            curve = _curve(embeddings, labels)
            for name, figure in draw_all(Evaluated(split, names, embeddings, labels, curve, closed)):
                add_figure(trainer, f"{split}/{name}", figure, step)

        draw_at_end(trainer, draw)
        self._begin(0)


def _curve(embeddings: Tensor, labels: Tensor) -> VerificationCurve | None:
    """Verify all pairs if there are genuine and impostor ones."""
    _, sizes = labels.unique(return_counts=True)
    comparable = len(sizes) > 1 and int(sizes.max()) > 1 and bool(embeddings.isfinite().all())
    return all_pairs_curve(embeddings, labels) if comparable else None
