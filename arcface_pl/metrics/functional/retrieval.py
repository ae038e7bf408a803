"""Retrieval: do the nearest neighbors of a query belong to its class?

All functions share these arguments and rules.

* ``embeddings`` (Q, D), any real dtype, are the queries, ``labels`` (Q,), any integer dtype, their classes. They are
  looked up in ``gallery_embeddings`` (G, D) with ``gallery_labels`` (G,), by cosine. Without a gallery each query is
  looked up among all others, excluding itself; a given gallery is searched completely, even if it contains the queries.
* Ties never help: among equal cosines, items of other classes are ranked first.
* Queries whose class is not in the gallery are excluded from the mean, except in `knn_accuracy`, which counts them as
  wrong.
* Queries are processed in chunks; there is never a Q x G matrix.
"""

from typing import Unpack

import torch
from torch import Tensor

from arcface_pl.metrics.functional.neighbours import Gallery, Search

NUM_NEIGHBOURS = 5
"""Neighbors that vote, where the classes have as many."""


@torch.no_grad()
def recall_at_k(embeddings: Tensor, labels: Tensor, k: int = 1, **gallery: Unpack[Gallery]) -> float:
    """Compute the share of queries with at least one item of their class among their k nearest neighbors.

    This is recall@k as in metric learning; information retrieval divides by the size of the class instead.

    Args:
        embeddings: Queries, (Q, D).
        labels: Classes of the queries, (Q,).
        k: Number of neighbors, from 1 to the gallery's size (without a gallery: Q - 1).
        **gallery: ``gallery_embeddings`` and ``gallery_labels``; see `Gallery`.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: If shapes do not fit, a value is NaN or infinite, ``k`` exceeds the gallery, or the gallery has no
            item of any query's class.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.6, 0.4]])
        >>> recall_at_k(embeddings, torch.tensor([0, 0, 1, 1]), k=1)
        0.75
    """
    return float(_match_rates(Search(embeddings, labels, **gallery), "k", k)[-1])


@torch.no_grad()
def cumulative_match_characteristic(
    embeddings: Tensor, labels: Tensor, max_rank: int | None = None, **gallery: Unpack[Gallery]
) -> Tensor:
    """Compute the CMC: for each rank k, the share of queries with an item of their class at rank <= k (recall@k).

    Args:
        embeddings: Queries, (Q, D).
        labels: Classes of the queries, (Q,).
        max_rank: Last rank, from 1 to the gallery's size (without a gallery: Q - 1). None for 10, or that size if it is
            smaller.
        **gallery: ``gallery_embeddings`` and ``gallery_labels``; see `Gallery`.

    Returns:
        Fractions at ranks 1 to ``max_rank``, (max_rank,), float64, non-decreasing.

    Raises:
        ValueError: As `recall_at_k`.
    """
    search = Search(embeddings, labels, **gallery)
    return _match_rates(search, "max_rank", min(10, search.num_candidates) if max_rank is None else max_rank)


@torch.no_grad()
def precision_at_k(embeddings: Tensor, labels: Tensor, k: int = 1, **gallery: Unpack[Gallery]) -> float:
    """Compute the mean share of the k nearest neighbors in the query's class; at k = 1, precision@1.

    Args:
        embeddings: Queries, (Q, D).
        labels: Classes of the queries, (Q,).
        k: Number of neighbors, from 1 to the gallery's size (without a gallery: Q - 1).
        **gallery: ``gallery_embeddings`` and ``gallery_labels``; see `Gallery`.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: As `recall_at_k`.
    """
    search = Search(embeddings, labels, **gallery)
    search.check_k("k", k)
    queries = search.with_relevant()
    return sum(int(found.is_relevant.sum()) for found in search.neighbours(queries, k)) / (len(queries) * k)


@torch.no_grad()
def knn_accuracy(embeddings: Tensor, labels: Tensor, k: int | None = None, **gallery: Unpack[Gallery]) -> float:
    """Compute the share of queries whose class wins the vote of the k nearest neighbors; ties go to the lower label.

    Args:
        embeddings: Queries, (Q, D).
        labels: Classes of the queries, (Q,).
        k: Number of neighbors that vote, from 1 to the gallery's size (without a gallery: Q - 1). None for 5, or what
            the smallest class has in the gallery (without one: besides the query), if that is smaller: other classes
            would outvote it.
        **gallery: ``gallery_embeddings`` and ``gallery_labels``; see `Gallery`.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: If shapes do not fit, a value is NaN or infinite, or ``k`` exceeds the gallery.
    """
    search = Search(embeddings, labels, **gallery)
    k = search.default_k(NUM_NEIGHBOURS) if k is None else k
    search.check_k("k", k)
    queries = torch.arange(len(search.labels), device=search.labels.device)
    num_right = 0
    for found in search.neighbours(queries, k):
        winner = found.labels.cpu().mode(1).values  # the CPU's mode is the lowest of several; CUDA's may be any
        num_right += int((winner == search.labels[found.query].cpu()).sum())
    return num_right / len(queries)


def _match_rates(search: Search, name: str, max_rank: int) -> Tensor:
    search.check_k(name, max_rank)
    queries = search.with_relevant()
    num_matched = torch.zeros(max_rank, dtype=torch.int64, device=queries.device)
    for found in search.neighbours(queries, max_rank):
        num_matched += (found.is_relevant.cumsum(1) > 0).sum(0)
    return num_matched.double() / len(queries)
