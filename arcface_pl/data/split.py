"""Dividing labelled images into two parts."""

import torch
from torch import Tensor

__all__ = ["stratified_split"]


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divide indices into two disjoint parts with the same share of every class.

    The second part holds ``round(fraction * N)`` indices. Each class gives its share of them rounded down, and the
    classes with the largest remainders give one more, so that none is more than one image off its share.

    Args:
        labels: (N,) int64, at least 0.
        fraction: Share of the second part, in [0, 1).
        seed: Decides which images go where.

    Returns:
        Indices (int64, ascending) of the first and of the second part.

    Example:
        >>> stratified_split(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, seed=0)
        (tensor([1, 2, 3, 5, 6, 7]), tensor([0, 4]))
    """
    generator = torch.Generator().manual_seed(seed)
    shares = torch.bincount(labels).double() * fraction
    taken = shares.long()
    missing = round(fraction * len(labels)) - int(taken.sum())
    taken[torch.argsort(shares - taken, descending=True, stable=True)[:missing]] += 1
    second = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(taken.tolist()):
        members = (labels == label).nonzero().flatten()
        second[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~second).nonzero().flatten(), second.nonzero().flatten()
