"""An order in which every class comes equally often."""

import torch
from torch import Tensor

__all__ = ["balanced_order"]


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw as many images as there are, of every class that occurs equally many, give or take one.

    An image of a small class comes again once all others of its class have come; of a large class each epoch sees
    other images.

    Args:
        labels: (N,) int64, at least 0, on the CPU.
        generator: Source of the draws.

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
    # Within a class the n-th draw is the (n mod count)-th of its shuffled images.
    number = torch.arange(len(labels)) - ends.repeat_interleave(wanted)
    drawn = by_class[starts.repeat_interleave(wanted) + number % counts.repeat_interleave(wanted)]
    return drawn[torch.randperm(len(labels), generator=generator)]
