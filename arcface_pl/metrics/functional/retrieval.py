"""Retrieval: are the nearest neighbours of a query of its class?

All functions share these arguments and rules.

* ``embeddings`` (Q, D), any real dtype, are the queries, ``labels`` (Q,), any integer dtype, their classes. They are
  looked up in ``gallery_embeddings`` (G, D) with ``gallery_labels`` (G,), by cosine. Without a gallery each is looked
  up among the others, never itself; a gallery that is given is searched whole, even if it holds the queries.
* Equal cosines never help: items of other classes are ranked first among them.
* A query of whose class the gallery holds nothing is left out of the mean (not in `knn_accuracy`, where it is wrong).
* Memory is that of a chunk of queries against the gallery; there is never a Q x G matrix.
"""

import torch
from torch import Tensor

from arcface_pl.metrics.functional.neighbours import Search

__all__ = ["cumulative_match_characteristic", "knn_accuracy", "precision_at_k", "recall_at_k"]


@torch.no_grad()
def recall_at_k(
    embeddings: Tensor,
    labels: Tensor,
    k: int = 1,
    *,
    gallery_embeddings: Tensor | None = None,
    gallery_labels: Tensor | None = None,
) -> float:
    """Share of queries that have at least one item of their class among their k nearest neighbours.

    This is the recall@k of metric learning; that of information retrieval divides by the size of the class instead.

    Args:
        embeddings: Queries, (Q, D).
        labels: Their classes, (Q,).
        k: Neighbours looked at, from 1 to the gallery's size (without a gallery: Q - 1).
        gallery_embeddings: Where to look, (G, D); None for the other queries.
        gallery_labels: Their classes, (G,).

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: If shapes do not fit, a value is NaN or infinite, ``k`` exceeds the gallery, or the gallery holds
            nothing of any query's class.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.6, 0.4]])
        >>> recall_at_k(embeddings, torch.tensor([0, 0, 1, 1]), k=1)
        0.75
    """
    return float(_match_rates(Search(embeddings, labels, gallery_embeddings, gallery_labels), "k", k)[-1])


@torch.no_grad()
def cumulative_match_characteristic(
    embeddings: Tensor,
    labels: Tensor,
    max_rank: int = 10,
    *,
    gallery_embeddings: Tensor | None = None,
    gallery_labels: Tensor | None = None,
) -> Tensor:
    """CMC: for each rank, the share of queries whose first item of their class comes no later; recall@k for every k.

    Args:
        embeddings: Queries, (Q, D).
        labels: Their classes, (Q,).
        max_rank: The last rank, from 1 to the gallery's size (without a gallery: Q - 1).
        gallery_embeddings: Where to look, (G, D); None for the other queries.
        gallery_labels: Their classes, (G,).

    Returns:
        Fractions at ranks 1 to ``max_rank``, (max_rank,), float64, rising.

    Raises:
        ValueError: As `recall_at_k`.
    """
    return _match_rates(Search(embeddings, labels, gallery_embeddings, gallery_labels), "max_rank", max_rank)


@torch.no_grad()
def precision_at_k(
    embeddings: Tensor,
    labels: Tensor,
    k: int = 1,
    *,
    gallery_embeddings: Tensor | None = None,
    gallery_labels: Tensor | None = None,
) -> float:
    """Mean share of the k nearest neighbours that are of the query's class; at k = 1, precision@1.

    Args:
        embeddings: Queries, (Q, D).
        labels: Their classes, (Q,).
        k: Neighbours looked at, from 1 to the gallery's size (without a gallery: Q - 1).
        gallery_embeddings: Where to look, (G, D); None for the other queries.
        gallery_labels: Their classes, (G,).

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: As `recall_at_k`.
    """
    search = Search(embeddings, labels, gallery_embeddings, gallery_labels)
    search.check_k("k", k)
    queries = search.with_relevant()
    return sum(int(found.is_relevant.sum()) for found in search.neighbours(queries, k)) / (len(queries) * k)


@torch.no_grad()
def knn_accuracy(
    embeddings: Tensor,
    labels: Tensor,
    k: int = 5,
    *,
    gallery_embeddings: Tensor | None = None,
    gallery_labels: Tensor | None = None,
) -> float:
    """Share of queries whose class wins the vote of their k nearest neighbours; a draw goes to the smallest label.

    Args:
        embeddings: Queries, (Q, D).
        labels: Their classes, (Q,).
        k: Neighbours that vote, from 1 to the gallery's size (without a gallery: Q - 1).
        gallery_embeddings: Where to look, (G, D); None for the other queries.
        gallery_labels: Their classes, (G,).

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: If shapes do not fit, a value is NaN or infinite, or ``k`` exceeds the gallery.
    """
    search = Search(embeddings, labels, gallery_embeddings, gallery_labels)
    search.check_k("k", k)
    queries = torch.arange(len(search.labels), device=search.labels.device)
    num_right = 0
    for found in search.neighbours(queries, k):
        winner = found.labels.cpu().mode(1).values  # the CPU's mode is the smallest of several; CUDA's may be any
        num_right += int((winner == search.labels[found.query].cpu()).sum())
    return num_right / len(queries)


def _match_rates(search: Search, name: str, max_rank: int) -> Tensor:
    search.check_k(name, max_rank)
    queries = search.with_relevant()
    num_matched = torch.zeros(max_rank, dtype=torch.int64, device=queries.device)
    for found in search.neighbours(queries, max_rank):
        num_matched += (found.is_relevant.cumsum(1) > 0).sum(0)
    return num_matched.double() / len(queries)
