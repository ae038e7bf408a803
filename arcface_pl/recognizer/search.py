"""Exact search for the nearest of many unit vectors."""

from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["FAISS_FROM", "nearest"]

BLOCK = 4096
"""Rows and columns of a block of cosines at most: 64 MB, whatever the gallery's size."""
FAISS_FROM = 100_000
"""Directions from which on faiss searches, where it is installed."""


def nearest(queries: Tensor, directions: Tensor, num_matches: int) -> tuple[Tensor, Tensor]:
    """Find the directions with the largest cosines.

    Every cosine is computed, a block at a time, so that memory does not grow with B x N. From `FAISS_FROM` directions
    on, faiss does the same where it is installed (the extra ``faiss``). Equal cosines come in any order.

    Args:
        queries: (B, D) float32 unit rows.
        directions: (N, D) float32 unit rows, N >= 1.
        num_matches: K, at least 1.

    Returns:
        Cosines (B, min(K, N)), falling along each row, and the positions of the directions, int64.
    """
    num_matches = min(num_matches, len(directions))
    if len(directions) >= FAISS_FROM and find_spec("faiss") is not None:
        return _faiss_nearest(queries, directions, num_matches)
    parts = [_block_nearest(block, directions, num_matches) for block in queries.split(BLOCK)]
    if not parts:
        return queries.new_empty(0, num_matches), torch.empty(0, num_matches, dtype=torch.int64)
    scores, positions = (torch.cat(part) for part in zip(*parts, strict=True))
    return scores.clamp(-1, 1), positions


def _block_nearest(queries: Tensor, directions: Tensor, num_matches: int) -> tuple[Tensor, Tensor]:
    best = queries.new_full((len(queries), num_matches), -torch.inf)
    where = torch.zeros(best.shape, dtype=torch.int64)
    for start in range(0, len(directions), BLOCK):
        block = directions[start : start + BLOCK]
        scores = torch.cat((best, queries @ block.T), dim=1)
        positions = torch.cat((where, torch.arange(start, start + len(block)).expand(len(queries), -1)), dim=1)
        best, order = scores.topk(num_matches, dim=1)
        where = positions.gather(1, order)
    return best, where


def _faiss_nearest(queries: Tensor, directions: Tensor, num_matches: int) -> tuple[Tensor, Tensor]:
    import faiss

    index = faiss.IndexFlatIP(directions.shape[1])
    index.add(directions.numpy())
    scores, positions = index.search(queries.numpy(), num_matches)
    return torch.from_numpy(scores).clamp(-1, 1), torch.from_numpy(positions)
