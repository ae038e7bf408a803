"""Stratified splits, class-balanced orders, and batches that hold several images of a class."""

from itertools import chain

import torch
from torch import Tensor

from arcface_pl.errors import expected, listed
from arcface_pl.functional.checks import check_count


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


def check_groups(images_per_class: int, batch_size: int) -> None:
    """Refuse groups that do not divide a batch into two or more."""
    check_count("images_per_class", images_per_class, low=2)
    if batch_size % images_per_class or batch_size < 2 * images_per_class:
        divisors = [number for number in range(2, batch_size // 2 + 1) if batch_size % number == 0]
        near = sorted(sorted(divisors, key=lambda each: abs(each - images_per_class))[:3])
        remedy = f"data.batch_size {batch_size} takes {listed(near)}" if near else "Set a larger data.batch_size"
        accepted = "a divisor of data.batch_size, and at most half of it"
        raise ValueError(expected("images_per_class", images_per_class, accepted, remedy))


def groups_per_class(counts: Tensor, size: int, balance: bool) -> tuple[Tensor, int]:
    """Return into how many groups of ``size`` images each class is divided, and how many groups an epoch has.

    Args:
        counts: (C,) int64, images of each class.
        size: Images per group, at least 1.
        balance: Divide ``ceil(N / size)`` groups evenly among the classes that occur, up to the remainder, which
            `grouped_order` gives to others in every epoch. Otherwise a class has ``ceil(n / size)``.

    Returns:
        (C,) int64, and the number of groups.
    """
    needed = -(-counts // size)
    if not balance:
        return needed, int(needed.sum())
    total, present = -(-int(counts.sum()) // size), counts > 0
    return torch.where(present, total // int(present.sum()), 0), total


def grouped_order(
    labels: Tensor, size: int, batches: list[int], generator: torch.Generator, *, balance: bool = False
) -> Tensor:
    """Arrange images in groups of one class, and the groups in batches that have no class twice.

    Every image is drawn at least once, unless ``balance`` draws all classes equally often. A class whose images do not
    fill its last group repeats some of those it has already shown, and in one group only if it has fewer than ``size``.
    The groups of a class are spread over the epoch. A class recurs within a batch only if it has more groups than there
    are batches, or if nothing else is left.

    Args:
        labels: (N,) int64, at least 0, on the CPU.
        size: Images per group, at least 1.
        batches: Number of groups of each batch, in order. Groups beyond their sum are left out.
        generator: Random generator.
        balance: See `groups_per_class`.

    Returns:
        (groups, size) int64 indices, one row per group.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        >>> order = grouped_order(labels, 2, [2, 2], torch.Generator().manual_seed(0))
        >>> labels[order].tolist()
        [[0, 0], [1, 1], [0, 0], [1, 1]]
    """
    counts = torch.bincount(labels)
    groups, total = groups_per_class(counts, size, balance)
    if more := total - int(groups.sum()):
        present = counts.nonzero().flatten()
        groups[present[torch.randperm(len(present), generator=generator)[:more]]] += 1
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    owner = torch.arange(len(counts)).repeat_interleave(groups)  # of each group
    number = torch.arange(total) - (groups.cumsum(0) - groups)[owner]
    places = (number[:, None] * size + torch.arange(size)) % counts[owner, None]
    members = by_class[(counts.cumsum(0) - counts)[owner, None] + places]
    # The j-th of a class's g groups comes at a random time in [j / g, (j + 1) / g)
    times = (number + torch.rand(total, dtype=torch.float64, generator=generator)) / groups[owner]
    return members[_without_repeats(owner, times.argsort(), groups > len(batches), batches)]


def _without_repeats(owner: Tensor, order: Tensor, frequent: Tensor, batches: list[int]) -> Tensor:
    """Reorder groups so that a batch has no class twice, except for frequent ones.

    Args:
        owner: (G,) class of each group.
        order: (G,) groups in the order to be changed.
        frequent: (C,) bool, classes that may recur within a batch.
        batches: Number of groups of each batch.

    Returns:
        The first ``sum(batches)`` groups of the new order.
    """
    coming = iter(zip(order.tolist(), owner[order].tolist(), strict=True))
    recurs, found = frequent.tolist(), []
    waiting: list[tuple[int, int]] = []
    for wanted in batches:
        used: set[int] = set()
        later: list[tuple[int, int]] = []
        batch: list[int] = []
        held = iter(waiting)
        for group, label in chain(held, coming):
            if label in used and not recurs[label]:
                later.append((group, label))
            else:
                used.add(label)
                batch.append(group)
            if len(batch) == wanted:
                break
        short = wanted - len(batch)  # nothing but repeats is left
        found += batch + [group for group, _ in later[:short]]
        waiting = [*later[max(0, short) :], *held]
    return torch.tensor(found)
