"""Metrics of one split: accuracy without and with the margin, loss and angles."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, SumMetric
from torchmetrics.classification import MulticlassAccuracy

from arcface_pl.callbacks.outputs import ScoredBatch
from arcface_pl.heads import Head

# Sums over a test set must not depend on how many processes shared it; Apple's GPUs have no float64.
SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64


class Scores(nn.Module):
    """The metrics of one split, updated batch by batch.

    Args:
        split: "val" or "test": the prefix under which they are logged.
        num_classes: C.
    """

    def __init__(self, split: str, num_classes: int) -> None:
        super().__init__()
        self.split = split
        self.accuracy, self.margin_accuracy = (
            MulticlassAccuracy(num_classes, average="micro", validate_args=False) for _ in range(2)
        )
        self.num_images, self.num_correct = (SumMetric(nan_strategy="disable").set_dtype(SUM_DTYPE) for _ in range(2))
        self.loss, self.target_mean, self.nearest_other_mean = (
            MeanMetric(nan_strategy="disable").set_dtype(SUM_DTYPE) for _ in range(3)
        )

    def update_from(self, head: Head, embeddings: Tensor, labels: Tensor) -> ScoredBatch:
        """Score a batch in one pass over the classes.

        Args:
            head: The head in evaluation mode.
            embeddings: (B, D).
            labels: (B,) integers in [0, C).
        """
        state: Any = self.num_images.sum_value
        if state.is_inference() and not torch.is_inference_mode_enabled():
            self._leave_inference_mode()  # Trainer.validate was called before fit, which validates in another mode
        scores = head.score(embeddings, labels)
        labels = labels.long()
        target_angle, nearest_other_angle = _degrees(scores.target_cosine), _degrees(scores.nearest_other_cosine)
        self.accuracy.update(scores.predictions, labels)
        self.margin_accuracy.update(scores.margin_predictions, labels)
        self.num_images.update(float(len(labels)))
        self.num_correct.update((scores.predictions == labels).sum().to(SUM_DTYPE))
        self.loss.update(scores.loss.to(SUM_DTYPE))
        self.target_mean.update(target_angle)
        self.nearest_other_mean.update(nearest_other_angle)
        return {
            "embeddings": embeddings,
            "labels": labels,
            "predictions": scores.predictions,
            "target_angle": target_angle,
            "predicted_angle": _degrees(scores.predicted_cosine),
            "nearest_other_angle": nearest_other_angle,
        }

    def _leave_inference_mode(self) -> None:
        for metric in self.children():
            assert isinstance(metric, Metric)
            for name, state in metric.metric_state.items():
                if isinstance(state, Tensor):
                    setattr(metric, name, state.clone())

    def by_key(self) -> dict[str, Metric]:
        """Return the metrics by the key that each is logged under."""
        names = ("loss", "accuracy", "margin_accuracy", "angle/target_mean", "angle/nearest_other_mean")
        return {f"{self.split}/{name}": getattr(self, name.rpartition("/")[2]) for name in names}

    def counts(self) -> dict[str, Metric]:
        """Return how many images were scored and how many predictions were right, by key."""
        return {f"{self.split}/{name}": getattr(self, name) for name in ("num_images", "num_correct")}


def _degrees(cosine: Tensor) -> Tensor:
    return torch.rad2deg(torch.acos(cosine.to(SUM_DTYPE).clamp(-1.0, 1.0)))
