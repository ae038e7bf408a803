"""Nearest neighbors of queries in a gallery, in chunks of queries, in an order that is defined for ties."""

from collections.abc import Iterator
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from arcface_pl.metrics.functional.cosine import cosine_block, unit_rows
from arcface_pl.metrics.functional.validation import (
    check,
    check_embeddings,
    check_labels,
    check_same_width,
    check_whole,
)

_MAX_BLOCK = 1 << 22  # cosines held at a time: 16 MB
_MIN_ROWS = 32  # with fewer queries the GEMM is bound by reading the gallery


class Neighbours(NamedTuple):
    """Nearest gallery items of a chunk of queries.

    Attributes:
        labels: Classes of the items, nearest first, (Q, k), int64.
        is_relevant: Whether they belong to the query's class, (Q, k), bool.
        num_relevant: Number of gallery items of the query's class, (Q,), int64.
        query: Indices of the queries, (Q,), int64.
    """

    labels: Tensor
    is_relevant: Tensor
    num_relevant: Tensor
    query: Tensor


class Gallery(TypedDict, total=False):
    """Where queries are looked up; without a gallery, each among all others.

    Attributes:
        gallery_embeddings: Gallery, (G, D), any real dtype; None for the other queries.
        gallery_labels: Classes of the gallery, (G,), any integer dtype; required with a gallery.
    """

    gallery_embeddings: Tensor | None
    gallery_labels: Tensor | None


class Search:
    """Queries and the gallery they are looked up in; without a gallery, the other queries.

    Neighbors are sorted by decreasing cosine. Among equal cosines, items of other classes come first, so that a tie
    never helps; after that, the order of the gallery decides.

    Args:
        embeddings: Queries, (Q, D), any real dtype; normalized here.
        labels: Classes of the queries, (Q,), any integer dtype.
        gallery_embeddings: Gallery, (G, D); None to look up each query among all others.
        gallery_labels: Classes of the gallery, (G,), required with a gallery.
    """

    def __init__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        gallery_embeddings: Tensor | None = None,
        gallery_labels: Tensor | None = None,
    ) -> None:
        embeddings = check_embeddings("embeddings", embeddings)
        self.queries = unit_rows(embeddings).float()
        self.labels = check_labels("labels", labels, len(embeddings)).to(embeddings.device)
        self.excludes_self = gallery_embeddings is None
        together = (gallery_embeddings is None) == (gallery_labels is None)
        check(together, "gallery_embeddings, gallery_labels", "one of them", "both or neither")
        if gallery_embeddings is None or gallery_labels is None:
            self.gallery, self.gallery_labels = self.queries, self.labels
        else:
            gallery = check_embeddings("gallery_embeddings", gallery_embeddings).to(embeddings.device)
            check_same_width("gallery_embeddings", gallery, embeddings.shape[1])
            self.gallery = unit_rows(gallery).float()
            self.gallery_labels = check_labels("gallery_labels", gallery_labels, len(gallery)).to(embeddings.device)
        self.num_candidates = len(self.gallery) - self.excludes_self
        classes, inverse = torch.cat((self.labels, self.gallery_labels)).unique(return_inverse=True)
        class_sizes = inverse[len(self.labels) :].bincount(minlength=len(classes))
        self.num_relevant = class_sizes[inverse[: len(self.labels)]] - int(self.excludes_self)

    def check_k(self, name: str, k: int) -> None:
        """Refuse a number of neighbors that the gallery does not have."""
        check(self.num_candidates > 0, "embeddings", "one", "at least two, as each is looked up among the others")
        size = "the number of other queries" if self.excludes_self else "the size of the gallery"
        check_whole(name, k, 1, self.num_candidates, f"a whole number from 1 to {self.num_candidates}, {size}")

    def default_k(self, most: int) -> int:
        """Return ``most``, or the number of relevant items of the query that has fewest, if that is smaller.

        With more neighbors, items of other classes would outvote a class however close its items are. Queries without a
        relevant item do not count.
        """
        relevant = self.num_relevant[self.num_relevant > 0]
        return min(most, int(relevant.min()) if len(relevant) else self.num_candidates)

    def with_relevant(self) -> Tensor:
        """Return the indices (Q',) of queries whose class is in the gallery: for others nothing can be retrieved."""
        found = self.num_relevant.nonzero().squeeze(1)
        accepted = "a class that repeats" if self.excludes_self else "a class that is in gallery_labels"
        check(len(found) > 0, "labels", "none", accepted)
        return found

    def neighbours(self, queries: Tensor, k: int | None) -> Iterator[Neighbours]:
        """Yield the ``k`` nearest items per query; None for the largest number of relevant items in the chunk."""
        rows = max(_MIN_ROWS, _MAX_BLOCK // len(self.gallery))
        memory = self.gallery.new_empty(min(rows, len(queries)), len(self.gallery))  # new pages would double the time
        for chunk in queries.split(rows):
            num_relevant = self.num_relevant[chunk]
            cosine = cosine_block(self.queries[chunk], self.gallery, out=memory[: len(chunk)])
            if self.excludes_self:
                cosine[torch.arange(len(chunk), device=chunk.device), chunk] = -torch.inf
            index = self._nearest(cosine, self.labels[chunk], int(num_relevant.max()) if k is None else k)
            labels = self.gallery_labels[index]
            yield Neighbours(labels, labels == self.labels[chunk, None], num_relevant, chunk)

    def _nearest(self, cosine: Tensor, labels: Tensor, k: int) -> Tensor:
        # One more than needed shows whether a tie extends past the end
        values, index = cosine.topk(min(k + 1, cosine.shape[1]))
        tied = (values[:, 1:] == values[:, :-1]).any(1).nonzero().squeeze(1)
        index = index[:, :k]
        for rows in tied.split(_MIN_ROWS):
            index[rows] = _order(cosine[rows], self.gallery_labels != labels[rows, None]).topk(k).indices
        return index


def _order(cosine: Tensor, is_other: Tensor) -> Tensor:
    # An integer that sorts like (cosine, is_other, -position): 32 bits of the float, 1 bit, 31 bits
    bits = cosine.view(torch.int32).long()
    value = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    position = torch.arange(cosine.shape[1] - 1, -1, -1, device=cosine.device)
    return (value << 32) + (is_other.long() << 31) + position
