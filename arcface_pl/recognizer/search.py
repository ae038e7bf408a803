"""Exact search for the nearest of many unit vectors."""

from importlib.util import find_spec

import torch
from torch import Tensor

BLOCK = 1 << 24
"""Cosines that are computed at once, at most: 64 MB."""
FAISS_FROM = 100_000
"""faiss is faster for a single query and so many directions."""
FEW = 8
"""Up to so many queries, directions x queries is the faster order of the product on a CPU."""


def nearest(queries: Tensor, directions: Tensor, num_matches: int) -> tuple[Tensor, Tensor]:
    """Find the directions with the largest cosines.

    Every cosine is computed, in blocks, so that memory does not grow with B x N. Where faiss is installed (the extra
    ``faiss``), it searches for a single query among many directions. The order of equal cosines is unspecified.

    Args:
        queries: (B, D) float32 unit rows.
        directions: (N, D) float32 unit rows, N >= 1.
        num_matches: K, at least 1.

    Returns:
        Cosines (B, min(K, N)), descending along each row, and the positions of the directions, int64.
    """
    num_matches = min(num_matches, len(directions))
    if not len(queries):
        return queries.new_empty(0, num_matches), torch.empty(0, num_matches, dtype=torch.int64)
    if len(directions) >= FAISS_FROM and len(queries) == 1 and find_spec("faiss") is not None:
        import faiss  # without an index: faiss.knn reads the directions where they are

        found = faiss.knn(queries.numpy(), directions.numpy(), num_matches, metric=faiss.METRIC_INNER_PRODUCT)
        scores, positions = map(torch.from_numpy, found)
    else:
        parts = [_block_nearest(block, directions, num_matches) for block in queries.split(4096)]
        scores, positions = map(torch.cat, zip(*parts, strict=True))
    return scores.clamp(-1, 1), positions


def _block_nearest(queries: Tensor, directions: Tensor, num_matches: int) -> tuple[Tensor, Tensor]:
    scores, positions = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    # A single row would be a matrix-vector product, which is slower than two
    few = queries.repeat(2, 1) if len(queries) == 1 else queries
    size = max(1, BLOCK // len(few))
    for start in range(0, len(directions), size):
        part = directions[start : start + size]
        block = (part @ few.T).T[: len(queries)] if len(queries) <= FEW else queries @ part.T
        best, where = block.topk(min(num_matches, block.shape[1]), dim=1)
        scores, positions = torch.cat((scores, best), dim=1), torch.cat((positions, where + start), dim=1)
        scores, order = scores.topk(min(num_matches, scores.shape[1]), dim=1)
        positions = positions.gather(1, order)
    return scores, positions
