"""Angle statistics over batches."""

from typing import Any

from torch import Tensor

from arcface_pl.metrics.functional.angles import target_angles
from arcface_pl.metrics.functional.validation import check_embeddings, check_labels, check_whole
from arcface_pl.metrics.states import ListMetric


class AngleStatistics(ListMetric):
    """Mean angles of embeddings to their target class and to the nearest other class, and their difference.

    ``compute`` returns ``target_mean``, ``nearest_other_mean`` and ``gap_mean`` in radians, NaN with a warning if there
    was no embedding. The lists ``target`` and
    ``nearest_other`` hold the angles themselves, for a histogram.

    Args:
        sub_centers: Centers per class, at least 1.
        kwargs: Passed to `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = AngleStatistics()
        >>> metric.update(torch.tensor([[1.0, 1.0]]), torch.tensor([0]), torch.tensor([[0.0, 2.0], [-1.0, 0.0]]))
        >>> {name: round(float(value), 4) for name, value in metric.compute().items()}
        {'target_mean': 0.7854, 'nearest_other_mean': 2.3562, 'gap_mean': 1.5708}
    """

    target: list[Tensor]
    nearest_other: list[Tensor]

    def __init__(self, sub_centers: int = 1, **kwargs: Any) -> None:
        super().__init__("target", "nearest_other", **kwargs)
        self.sub_centers = check_whole("sub_centers", sub_centers)

    def update(self, embeddings: Tensor, labels: Tensor, centers: Tensor) -> None:
        """Add a batch.

        Args:
            embeddings: (B, D), any real dtype.
            labels: (B,), any integer dtype, in [0, C).
            centers: Class centers (C * sub_centers, D), ``head.weight``.
        """
        if not len(check_embeddings("embeddings", embeddings, rows=0)):
            check_labels("labels", labels, 0)
            return
        angles = target_angles(embeddings, labels, centers, sub_centers=self.sub_centers)
        self.target.append(angles.target.float().to(self.device))
        self.nearest_other.append(angles.nearest_other.float().to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Return the mean angles of all batches in radians."""
        target, nearest_other = self.rows("target"), self.rows("nearest_other")
        means = {"target": target.mean(), "nearest_other": nearest_other.mean()}
        means["gap"] = means["nearest_other"] - means["target"]
        return self.reported({f"{name}_mean": float(mean) for name, mean in means.items()}, f"{len(target)} embeddings")
