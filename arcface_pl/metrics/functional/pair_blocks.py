"""All pairs of a set of embeddings, in blocks of rows against blocks of columns."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.metrics.functional.cosine import cosine_block, unit_rows
from arcface_pl.metrics.functional.validation import check, check_embeddings, check_labels, check_whole

IMPOSTOR, GENUINE, NO_PAIR = 0, 1, 2
BLOCK_SIZE = 896  # 3 MB of float32 scores, which stay in cache between the GEMM and the counting


class PairBlock(NamedTuple):
    """Scores of a block of pairs.

    Attributes:
        scores: (R * C,), float32; the memory is reused for the next block.
        kind: `IMPOSTOR`, `GENUINE` or `NO_PAIR`, (R * C,), int32; None if all are impostor pairs. Blocks on the
            diagonal have pairs only above it.
    """

    scores: Tensor
    kind: Tensor | None


class PairBlocks:
    """The N (N - 1) / 2 pairs of N embeddings in blocks, bit-identical in every pass.

    The score of a pair is the float32 cosine from the GEMM of its block.

    Args:
        embeddings: (N, D), any real dtype, N >= 2; normalized here.
        labels: (N,), any integer dtype.
        block_size: Maximum number of rows and columns per block.
    """

    def __init__(self, embeddings: Tensor, labels: Tensor, block_size: int = BLOCK_SIZE) -> None:
        embeddings = check_embeddings("embeddings", embeddings)
        labels = check_labels("labels", labels, len(embeddings)).to(embeddings.device)
        check(len(embeddings) > 1, "embeddings", "one row", "at least two rows, to make a pair")
        check_whole("block_size", block_size)
        # Sorted by class, most blocks have impostor pairs only and need no mask
        classes = labels.unique(return_inverse=True)[1].int()
        self.classes, order = classes.sort(stable=True)
        self.position = order.argsort()
        self.embeddings = unit_rows(embeddings).float()[order]
        # Blocks of nearly equal size: a narrow last one could use another GEMM kernel, which rounds differently
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
        """Look up the scores of some pairs, (P,), bit-identical to those of a pass over all blocks.

        Args:
            first: Index of one embedding of each pair, (P,), any integer dtype, in [0, N).
            second: Index of the other, (P,), likewise.
        """
        check(isinstance(first, Tensor) and first.ndim == 1, "first", type(first).__name__, "indices, (P,)")
        first = check_labels("first", first, len(first)).to(self.position.device)
        second = check_labels("second", second, len(first)).to(self.position.device)
        for name, index in (("first", first), ("second", second)):
            outside = index[(index < 0) | (index >= len(self.position))].tolist()
            check(not outside, name, outside[:3], f"indices in [0, {len(self.position)})")
        ends = torch.stack((self.position[first], self.position[second]))
        inner = torch.tensor(self.bounds[1:-1], device=ends.device)
        row, column = ends.amin(0), ends.amax(0)
        spans = list(pairwise(self.bounds))
        # One number per block: unique over columns of two is slow
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
    """Compute the cosines of all pairs of embeddings, each pair once and no embedding with itself.

    Uses 4 bytes per pair: 800 MB for 20,000 embeddings. `all_pairs_curve` gives the same error rates without holding
    the scores.

    Args:
        embeddings: (N, D), any real dtype, N >= 2; normalized here. A row of zeros scores 0 with all others.
        labels: (N,), any integer dtype.
        block_size: Rows per block of the computation.

    Returns:
        ``(genuine, impostor)``: float32 scores of pairs of the same class, (G,), and of different classes, (I,), in
        unspecified order; either may be empty.

    Raises:
        ValueError: If shapes do not fit, N < 2, or an embedding is NaN or infinite.

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
    """Compute the cosines of a list of pairs.

    The scores are bit-identical to those of `pair_scores` and `all_pairs_curve`: a separate dot product per pair would
    round differently, and pairs with nearly equal cosines would swap. This costs up to N**2 D multiplications.

    Args:
        embeddings: (N, D), any real dtype, N >= 2; normalized here. A row of zeros scores 0 with all others.
        labels: (N,), any integer dtype.
        first: Index of one embedding of each pair, (P,), any integer dtype, in [0, N).
        second: Index of the other, (P,), likewise.
        block_size: Rows per block of the computation.

    Returns:
        Scores, (P,), float32, in the order of the list.

    Raises:
        ValueError: If shapes do not fit, an index is outside [0, N), N < 2, or an embedding is NaN or infinite.

    Example:
        >>> import torch
        >>> embeddings, labels = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), torch.tensor([4, 4, 7])
        >>> listed_pair_scores(embeddings, labels, torch.tensor([2, 1]), torch.tensor([0, 0])).tolist()
        [0.0, 1.0]
    """
    return PairBlocks(embeddings, labels, block_size).scores_of(first, second)
