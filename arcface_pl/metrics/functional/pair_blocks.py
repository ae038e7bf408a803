"""All pairs of a set of embeddings, a block of rows against a block of columns at a time."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.metrics.functional.cosine import cosine_block, unit_rows
from arcface_pl.metrics.functional.validation import check_embeddings, check_labels

__all__ = [
    "BLOCK_SIZE",
    "GENUINE",
    "IMPOSTOR",
    "NO_PAIR",
    "PairBlock",
    "PairBlocks",
    "listed_pair_scores",
    "pair_scores",
]

IMPOSTOR, GENUINE, NO_PAIR = 0, 1, 2
BLOCK_SIZE = 896  # a block of float32 scores is then 3 MB: it stays in cache between the GEMM and the counting


class PairBlock(NamedTuple):
    """Scores of a block of pairs.

    Attributes:
        scores: (R * C,), float32; its memory is used again for the next block.
        kind: `IMPOSTOR`, `GENUINE` or `NO_PAIR`, (R * C,), int32; None if all are impostor pairs. In a block on the
            diagonal only the entries above it are pairs.
    """

    scores: Tensor
    kind: Tensor | None


class PairBlocks:
    """The N (N - 1) / 2 pairs of N embeddings, in blocks, each time round the same to the last bit.

    The score of a pair is the float32 cosine that the GEMM of its block gives.

    Args:
        embeddings: (N, D), any real dtype, N >= 2; normalised here.
        labels: Class of each, (N,), any integer dtype.
        block_size: Rows and columns of a block, at most.
    """

    def __init__(self, embeddings: Tensor, labels: Tensor, block_size: int = BLOCK_SIZE) -> None:
        embeddings = check_embeddings("embeddings", embeddings)
        labels = check_labels("labels", labels, len(embeddings)).to(embeddings.device)
        if len(embeddings) < 2:
            raise ValueError("embeddings must hold at least two rows to make a pair, got 1")
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        # Ordered by class, most blocks hold impostor pairs alone and need no mask.
        classes = labels.unique(return_inverse=True)[1].int()
        self.classes, order = classes.sort(stable=True)
        self.position = order.argsort()
        self.embeddings = unit_rows(embeddings)[order]
        # Blocks of nearly equal size: a narrow last one could take another GEMM kernel, which rounds differently.
        num_blocks = -(-len(embeddings) // block_size)
        self.bounds = [len(embeddings) * i // num_blocks for i in range(num_blocks + 1)]
        self.max_entries = max(end - start for start, end in pairwise(self.bounds)) ** 2

    def __iter__(self) -> Iterator[PairBlock]:
        spans = list(pairwise(self.bounds))
        memory = self.embeddings.new_empty(self.max_entries)
        for i, rows in enumerate(spans):
            for columns in spans[i:]:
                yield self._block(slice(*rows), slice(*columns), memory)

    def scores_of(self, first: Tensor, second: Tensor) -> Tensor:
        """Look up the scores of some pairs, (P,): those that going over all blocks gives, to the last bit.

        Args:
            first: Which embedding is the one of each pair, (P,), int64.
            second: Which is the other, (P,), int64.
        """
        ends = torch.stack((self.position[first], self.position[second]))
        inner = torch.tensor(self.bounds[1:-1], device=ends.device)
        row, column = ends.amin(0), ends.amax(0)
        spans = list(pairwise(self.bounds))
        # One number each: unique columns of two would be compared one by one
        block = torch.bucketize(row, inner, right=True) * len(spans) + torch.bucketize(column, inner, right=True)
        memory = self.embeddings.new_empty(self.max_entries)
        scores = self.embeddings.new_empty(len(row))
        needed, which = block.unique(return_inverse=True)
        for number, listed in zip(needed.tolist(), which.argsort().split(which.bincount().tolist()), strict=True):
            i, j = divmod(number, len(spans))
            (top, _), (left, right) = spans[i], spans[j]
            found = self._block(slice(*spans[i]), slice(left, right), memory).scores
            scores[listed] = found[(row[listed] - top) * (right - left) + column[listed] - left]
        return scores

    def _block(self, rows: slice, columns: slice, memory: Tensor) -> PairBlock:
        row_classes, column_classes = self.classes[rows], self.classes[columns]
        out = memory[: len(row_classes) * len(column_classes)].view(len(row_classes), len(column_classes))
        scores = cosine_block(self.embeddings[rows], self.embeddings[columns], out=out).view(-1)
        if row_classes[-1] < column_classes[0]:
            return PairBlock(scores, None)
        kind = (row_classes[:, None] == column_classes).int()
        if rows == columns:
            kind.masked_fill_(torch.ones_like(kind, dtype=torch.bool).tril_(), NO_PAIR)
        return PairBlock(scores, kind.view(-1))


def pair_scores(embeddings: Tensor, labels: Tensor, *, block_size: int = BLOCK_SIZE) -> tuple[Tensor, Tensor]:
    """The cosines of all pairs of the embeddings, each pair once and no embedding with itself.

    They take 4 bytes a pair: 800 MB for 20,000 embeddings. Beyond that, `all_pairs_curve` gives the same error rates
    without holding them.

    Args:
        embeddings: (N, D), any real dtype, N >= 2; normalised here. A row of zeros scores 0 with all others.
        labels: Class of each, (N,), any integer dtype.
        block_size: Rows of a block of the computation.

    Returns:
        ``(genuine, impostor)``: float32 scores of the pairs of one class, (G,), and of two classes, (I,), in no
        particular order; either may be empty.

    Raises:
        ValueError: If the shapes do not fit, there are fewer than two embeddings, or one holds NaN or infinity.

    Example:
        >>> import torch
        >>> genuine, impostor = pair_scores(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), torch.tensor([4, 4, 7]))
        >>> genuine.tolist(), impostor.tolist()
        ([1.0], [0.0, 0.0])
    """
    genuine, impostor = [], []
    for block in PairBlocks(embeddings, labels, block_size):
        if block.kind is None:
            impostor.append(block.scores.clone())
        else:
            genuine.append(block.scores[block.kind == GENUINE])
            impostor.append(block.scores[block.kind == IMPOSTOR])
    return torch.cat(genuine), torch.cat(impostor)


def listed_pair_scores(
    embeddings: Tensor, labels: Tensor, first: Tensor, second: Tensor, *, block_size: int = BLOCK_SIZE
) -> Tensor:
    """The cosines of the pairs of a list.

    They are looked up among those of all pairs, so that a pair has one score, to the last bit, whether it is listed or
    counted with all others. That costs up to N**2 D multiplications, but a product of its own for each pair is rounded
    otherwise, and two pairs whose cosines are nearly equal would change places.

    Args:
        embeddings: (N, D), any real dtype, N >= 2; normalised here. A row of zeros scores 0 with all others.
        labels: Class of each, (N,), any integer dtype.
        first: Which embedding is the one of each pair, (P,), int64 in [0, N).
        second: Which is the other, (P,), int64 in [0, N).
        block_size: Rows of a block of the computation.

    Returns:
        Scores, (P,), float32, in the list's order.

    Raises:
        ValueError: If the shapes do not fit, there are fewer than two embeddings, or one holds NaN or infinity.

    Example:
        >>> import torch
        >>> embeddings, labels = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), torch.tensor([4, 4, 7])
        >>> listed_pair_scores(embeddings, labels, torch.tensor([2, 1]), torch.tensor([0, 0])).tolist()
        [0.0, 1.0]
    """
    return PairBlocks(embeddings, labels, block_size).scores_of(first, second)
