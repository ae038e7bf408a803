"""Retrieval over a set of embeddings, each looked up among all others."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from arcface_pl.metrics.functional.precision_at_r import precision_at_r
from arcface_pl.metrics.functional.retrieval import cumulative_match_characteristic, knn_accuracy
from arcface_pl.metrics.functional.validation import check, check_list, check_whole
from arcface_pl.metrics.states import EmbeddingMetric


class Retrieval(EmbeddingMetric):
    """Retrieval of every embedding among all others: recall@k, R-precision, MAP@R and k-NN accuracy.

    ``compute`` returns ``recall_at_1`` (equal to precision@1) and so on, ``r_precision``, ``map_at_r`` and
    ``knn_accuracy``; see `arcface_pl.metrics.functional.recall_at_k` for the rules and `EmbeddingMetric` for several
    processes. A score that the embeddings do not allow is NaN, with a warning: recall@10 of eight embeddings, or any
    but ``knn_accuracy`` if no class has two.

    Args:
        recall_at: The k of recall@k, each at least 1.
        num_neighbours: Number of neighbors that vote in the k-NN accuracy, at least 1. None for 5, or what the smallest
            class has besides the query.
        kwargs: Passed to `torchmetrics.Metric`.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> import torch
        >>> metric = Retrieval(recall_at=[1, 2], num_neighbours=1)
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.6, 0.4]]), torch.tensor([0, 0, 1, 1]))
        >>> {name: round(float(value), 4) for name, value in metric.compute().items()}
        {'recall_at_1': 0.75, 'recall_at_2': 0.75, 'r_precision': 0.75, 'map_at_r': 0.75, 'knn_accuracy': 0.75}
    """

    def __init__(self, recall_at: Sequence[int] = (1, 5, 10), num_neighbours: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        ranks = check_list("recall_at", recall_at, accepted := "whole numbers of at least 1")
        check(bool(ranks), "recall_at", ranks, accepted)
        self.recall_at = [check_whole("recall_at", rank, accepted=accepted) for rank in ranks]
        self.num_neighbours = None if num_neighbours is None else check_whole("num_neighbours", num_neighbours)

    def compute(self) -> dict[str, Tensor]:
        """Return the scores of all batches."""
        embeddings, labels = self.rows("embeddings"), self.rows("labels")
        most = len(labels) - 1
        values = dict.fromkeys([f"recall_at_{k}" for k in self.recall_at], math.nan)
        values |= {"r_precision": math.nan, "map_at_r": math.nan, "knn_accuracy": math.nan}
        repeats = len(labels.unique()) < len(labels)
        possible = [k for k in self.recall_at if k <= most]
        if repeats and possible:
            matched = cumulative_match_characteristic(embeddings, labels, max(possible))
            values |= {f"recall_at_{k}": float(matched[k - 1]) for k in possible}
        if repeats:
            values["r_precision"], values["map_at_r"] = precision_at_r(embeddings, labels)
        if most > 0 and (self.num_neighbours or 1) <= most:
            values["knn_accuracy"] = knn_accuracy(embeddings, labels, self.num_neighbours)
        return self.reported(values, f"{len(labels)} embeddings of {len(labels.unique())} classes")
