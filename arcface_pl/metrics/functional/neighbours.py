"""The nearest neighbours of queries in a gallery, a chunk of queries at a time, in an order defined also for ties."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.metrics.functional.cosine import cosine_block, unit_rows
from arcface_pl.metrics.functional.validation import check_embeddings, check_labels

__all__ = ["Neighbours", "Search"]

_MAX_BLOCK = 1 << 22  # cosines held at a time: 16 MB
_MIN_ROWS = 32  # fewer queries than this turn the GEMM into reading the gallery over and over


class Neighbours(NamedTuple):
    """The nearest gallery items of some of the queries.

    Attributes:
        labels: Their classes, nearest first, (Q, k), int64.
        is_relevant: Whether they are of the query's class, (Q, k), bool.
        num_relevant: How many gallery items are of the query's class, (Q,), int64.
        query: Which queries these are, (Q,), int64.
    """

    labels: Tensor
    is_relevant: Tensor
    num_relevant: Tensor
    query: Tensor


class Search:
    """Queries and the gallery they are looked up in; without a gallery, the other queries.

    Neighbours are ordered by falling cosine. Where cosines tie, items of other classes come first, so that a tie never
    helps, whatever the order of the data; after that, the order is that of the gallery.

    Args:
        embeddings: Queries, (Q, D), any real dtype; normalised here.
        labels: Class of each query, (Q,), any integer dtype.
        gallery_embeddings: Gallery, (G, D), or None: then each query is looked up among all the others.
        gallery_labels: Class of each gallery item, (G,); to be given with the gallery.
    """

    def __init__(
        self, embeddings: Tensor, labels: Tensor, gallery_embeddings: Tensor | None, gallery_labels: Tensor | None
    ) -> None:
        embeddings = check_embeddings("embeddings", embeddings)
        self.queries = unit_rows(embeddings)
        self.labels = check_labels("labels", labels, len(embeddings)).to(embeddings.device)
        self.excludes_self = gallery_embeddings is None
        if (gallery_embeddings is None) != (gallery_labels is None):
            raise ValueError("gallery_embeddings and gallery_labels must be given together")
        if gallery_embeddings is None or gallery_labels is None:
            self.gallery, self.gallery_labels = self.queries, self.labels
        else:
            gallery = check_embeddings("gallery_embeddings", gallery_embeddings).to(embeddings.device)
            if gallery.shape[1] != embeddings.shape[1]:
                sizes = f"{embeddings.shape[1]} and {gallery.shape[1]}"
                raise ValueError(f"embeddings and gallery_embeddings must agree in D, got {sizes}")
            self.gallery = unit_rows(gallery)
            self.gallery_labels = check_labels("gallery_labels", gallery_labels, len(gallery)).to(embeddings.device)
        self.num_candidates = len(self.gallery) - self.excludes_self
        classes, inverse = torch.cat((self.labels, self.gallery_labels)).unique(return_inverse=True)
        class_sizes = inverse[len(self.labels) :].bincount(minlength=len(classes))
        self.num_relevant = class_sizes[inverse[: len(self.labels)]] - int(self.excludes_self)

    def check_k(self, name: str, k: int) -> None:
        """Refuse a number of neighbours that the gallery cannot give."""
        if not 1 <= k <= self.num_candidates:
            but = ", the query itself left out" if self.excludes_self else ""
            raise ValueError(f"{name} must be between 1 and the gallery's size, {self.num_candidates}{but}; got {k}")

    def with_relevant(self) -> Tensor:
        """The queries, (Q',), whose class the gallery holds at all: of the others nothing can be retrieved."""
        found = self.num_relevant.nonzero().squeeze(1)
        if not len(found):
            where = "labels must repeat" if self.excludes_self else "labels and gallery_labels must share a class"
            raise ValueError(f"{where}: no query has an item of its class to be found")
        return found

    def neighbours(self, queries: Tensor, k: int | None) -> Iterator[Neighbours]:
        """The ``k`` nearest of each query, or as many as the largest number relevant in a chunk for None."""
        rows = max(_MIN_ROWS, _MAX_BLOCK // len(self.gallery))
        memory = self.gallery.new_empty(min(rows, len(queries)), len(self.gallery))  # fresh pages would double the time
        for chunk in queries.split(rows):
            num_relevant = self.num_relevant[chunk]
            cosine = cosine_block(self.queries[chunk], self.gallery, out=memory[: len(chunk)])
            if self.excludes_self:
                cosine[torch.arange(len(chunk), device=chunk.device), chunk] = -torch.inf
            index = self._nearest(cosine, self.labels[chunk], int(num_relevant.max()) if k is None else k)
            labels = self.gallery_labels[index]
            yield Neighbours(labels, labels == self.labels[chunk, None], num_relevant, chunk)

    def _nearest(self, cosine: Tensor, labels: Tensor, k: int) -> Tensor:
        # One more than asked for shows whether a tie reaches across the end.
        values, index = cosine.topk(min(k + 1, cosine.shape[1]))
        tied = (values[:, 1:] == values[:, :-1]).any(1).nonzero().squeeze(1)
        index = index[:, :k]
        for rows in tied.split(_MIN_ROWS):
            index[rows] = _order(cosine[rows], self.gallery_labels != labels[rows, None]).topk(k).indices
        return index


def _order(cosine: Tensor, is_other: Tensor) -> Tensor:
    # An integer in the order of (cosine, is_other, -position): 32 bits of the float, 1 bit, 31 bits.
    bits = cosine.view(torch.int32).long()
    value = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    position = torch.arange(cosine.shape[1] - 1, -1, -1, device=cosine.device)
    return (value << 32) + (is_other.long() << 31) + position
