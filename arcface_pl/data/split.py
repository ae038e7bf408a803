"""Stratified splits and class-balanced orders."""

import torch
from torch import Tensor


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split indices into two parts with the same fraction of every class.

    The second part has ``round(fraction * N)`` indices. Each class contributes its share rounded down, and the classes
    with the largest remainders one more.

    Args:
        labels: (N,) int64, at least 0.
        fraction: Size of the second part, in [0, 1).
        seed: Seed of the split.

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
    by_class = torch.argsort(labels, stable=True).split(torch.bincount(labels).tolist())
    for members, count in zip(by_class, taken.tolist(), strict=True):
        second[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~second).nonzero().flatten(), second.nonzero().flatten()


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw N images, the same number (plus or minus one) of every class that occurs.

    Images of a small class are repeated only after all others of their class were drawn; of a large class, each epoch
    shows different images.

    Args:
        labels: (N,) int64, at least 0, on the CPU.
        generator: Random generator.

    Returns:
        (N,) int64 indices, in random order.

    Example:
        >>> order = balanced_order(torch.tensor([0, 0, 0, 0, 0, 1]), torch.Generator().manual_seed(0))
        >>> sorted(order.tolist())
        [0, 2, 3, 5, 5, 5]
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    counts = torch.bincount(labels)
    counts = counts[counts > 0]
    wanted = torch.full_like(counts, len(labels) // len(counts))
    wanted[torch.randperm(len(counts), generator=generator)[: len(labels) % len(counts)]] += 1
    starts, ends = counts.cumsum(0) - counts, wanted.cumsum(0) - wanted
    # The n-th draw of a class is the (n mod count)-th of its shuffled images.
    number = torch.arange(len(labels)) - ends.repeat_interleave(wanted)
    drawn = by_class[starts.repeat_interleave(wanted) + number % counts.repeat_interleave(wanted)]
    return drawn[torch.randperm(len(labels), generator=generator)]
