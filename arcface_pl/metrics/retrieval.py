"""Retrieval over a set of embeddings, each looked up among the others."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from arcface_pl.metrics.functional.precision_at_r import precision_at_r
from arcface_pl.metrics.functional.retrieval import cumulative_match_characteristic, knn_accuracy
from arcface_pl.metrics.states import EmbeddingMetric

__all__ = ["Retrieval"]


class Retrieval(EmbeddingMetric):
    """Retrieval of every embedding among the others: recall@k, R-precision, MAP@R and k-NN accuracy.

    ``compute`` gives ``recall_at_1`` (which is also precision@1) and so on, ``r_precision``, ``map_at_r`` and
    ``knn_accuracy``; see `recall_at_k` for the rules and `EmbeddingMetric` for several processes.

    Args:
        recall_at: The numbers of neighbours of recall@k, each at least 1 and below the number of embeddings.
        num_neighbours: How many neighbours vote in the k-NN accuracy.
        kwargs: Of `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = Retrieval(recall_at=[1, 2], num_neighbours=1)
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.6, 0.4]]), torch.tensor([0, 0, 1, 1]))
        >>> {name: round(float(value), 4) for name, value in metric.compute().items()}
        {'recall_at_1': 0.75, 'recall_at_2': 0.75, 'r_precision': 0.75, 'map_at_r': 0.75, 'knn_accuracy': 0.75}
    """

    def __init__(self, recall_at: Sequence[int] = (1, 5, 10), num_neighbours: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not recall_at or min(recall_at) < 1:
            raise ValueError(f"recall_at must name numbers of neighbours, each at least 1, got {list(recall_at)}")
        self.recall_at = list(recall_at)
        self.num_neighbours = num_neighbours

    def compute(self) -> dict[str, Tensor]:
        """The retrieval metrics of everything added so far."""
        embeddings, labels = dim_zero_cat(self.embeddings), dim_zero_cat(self.labels)
        matched = cumulative_match_characteristic(embeddings, labels, max(self.recall_at))
        values = {f"recall_at_{k}": float(matched[k - 1]) for k in self.recall_at}
        values["r_precision"], values["map_at_r"] = precision_at_r(embeddings, labels)
        values["knn_accuracy"] = knn_accuracy(embeddings, labels, self.num_neighbours)
        return {name: torch.tensor(value, device=self.device) for name, value in values.items()}
