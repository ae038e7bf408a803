"""R-precision and MAP@R: retrieval over as many neighbors as the query's class has members."""

from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from arcface_pl.metrics.functional.neighbours import Gallery, Search


class PrecisionAtR(NamedTuple):
    """R-precision and MAP@R, from one search."""

    r_precision: float
    mean_average_precision: float


@torch.no_grad()
def precision_at_r(embeddings: Tensor, labels: Tensor, **gallery: Unpack[Gallery]) -> PrecisionAtR:
    """Compute R-precision and MAP@R over the R nearest neighbors, where R is the size of the query's class.

    R-precision = r / R, where r of the R nearest belong to the query's class. MAP@R also rewards early hits:
    MAP@R = 1/R sum over i = 1..R of P(i), where P(i) is the precision among the i nearest if the i-th belongs to the
    query's class, and 0 otherwise. R counts the gallery's items of the class without the query itself. Ties, galleries
    and queries without an item of their class are treated as by `recall_at_k`.

    Args:
        embeddings: Queries, (Q, D), any real dtype; normalized here.
        labels: Classes of the queries, (Q,), any integer dtype.
        **gallery: ``gallery_embeddings`` and ``gallery_labels``; see `Gallery`.

    Returns:
        ``(r_precision, mean_average_precision)``, means over the queries, fractions in [0, 1].

    Raises:
        ValueError: If shapes do not fit, a value is NaN or infinite, or the gallery holds nothing of any query's class.

    Reference:
        Musgrave, Belongie, Lim, "A Metric Learning Reality Check", 2020.
    """
    search = Search(embeddings, labels, **gallery)
    queries = search.with_relevant()
    # Sorted by class size, so that no chunk ranks more than its queries need
    queries = queries[search.num_relevant[queries].argsort()]
    precision = average_precision = 0.0
    for found in search.neighbours(queries, None):
        rank = torch.arange(1, found.is_relevant.shape[1] + 1, device=queries.device)
        relevant = (found.is_relevant & (rank <= found.num_relevant[:, None])).double()
        precision += float((relevant.sum(1) / found.num_relevant).sum())
        average_precision += float(((relevant.cumsum(1) / rank * relevant).sum(1) / found.num_relevant).sum())
    return PrecisionAtR(precision / len(queries), average_precision / len(queries))


def r_precision(embeddings: Tensor, labels: Tensor, **gallery: Unpack[Gallery]) -> float:
    """Compute the mean share of the R nearest neighbors in the query's class; see `precision_at_r`.

    Args:
        embeddings: Queries, (Q, D), any real dtype; normalized here.
        labels: Classes of the queries, (Q,), any integer dtype.
        **gallery: ``gallery_embeddings`` and ``gallery_labels``; see `Gallery`.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: As `precision_at_r`.
    """
    return precision_at_r(embeddings, labels, **gallery).r_precision


def mean_average_precision_at_r(embeddings: Tensor, labels: Tensor, **gallery: Unpack[Gallery]) -> float:
    """Compute MAP@R, R-precision that also rewards early hits; see `precision_at_r` for the equation.

    Args:
        embeddings: Queries, (Q, D), any real dtype; normalized here.
        labels: Classes of the queries, (Q,), any integer dtype.
        **gallery: ``gallery_embeddings`` and ``gallery_labels``; see `Gallery`.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: As `precision_at_r`.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.6, 0.4]])
        >>> mean_average_precision_at_r(embeddings, torch.tensor([0, 0, 1, 1]))
        0.75
    """
    return precision_at_r(embeddings, labels, **gallery).mean_average_precision
