"""Angle statistics over batches."""

from typing import Any

from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from arcface_pl.metrics.functional.angles import target_angles
from arcface_pl.metrics.states import ListMetric


class AngleStatistics(ListMetric):
    """Mean angles of embeddings to their target class and to the nearest other class, and their difference.

    ``compute`` returns ``target_mean``, ``nearest_other_mean`` and ``gap_mean`` in radians. The lists ``target`` and
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
        self.sub_centers = sub_centers

    def update(self, embeddings: Tensor, labels: Tensor, centers: Tensor) -> None:
        """Add a batch.

        Args:
            embeddings: (B, D), any real dtype.
            labels: (B,), any integer dtype, in [0, C).
            centers: Class centers (C * sub_centers, D), ``head.weight``.
        """
        angles = target_angles(embeddings, labels, centers, sub_centers=self.sub_centers)
        self.target.append(angles.target.float().to(self.device))
        self.nearest_other.append(angles.nearest_other.float().to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Return the mean angles of all batches in radians."""
        target, nearest_other = dim_zero_cat(self.target).mean(), dim_zero_cat(self.nearest_other).mean()
        return {"target_mean": target, "nearest_other_mean": nearest_other, "gap_mean": nearest_other - target}
