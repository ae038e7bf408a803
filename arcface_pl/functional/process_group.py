"""The processes that share the classes of a head, and their collective calls."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from arcface_pl.errors import expected


def _restored(size: int, rank: int) -> "Group":
    group = Group()
    if (group.size, group.rank) != (size, rank):
        remedy = "Load a state_dict, which does not depend on processes"
        accepted = f"process {group.rank} of {group.size}, as here"
        raise ValueError(expected("sharded head", f"process {rank} of {size}", accepted, remedy))
    return group


def _renamed(name: str, before: str) -> Any:
    """Return a function of torch 2.14, which warns of its name before."""
    return getattr(dist, name, None) or getattr(dist, before)


class Group:
    """A `torch.distributed` group, or a process alone, for which every call returns what it was given.

    Each call is collective: all processes of the group make it, in the same order.

    Args:
        group: None for all processes, or for this one alone where there is no process group.
        alone: This process alone in any case.

    Attributes:
        size: Number of processes.
        rank: Number of this one.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, *, alone: bool = False) -> None:
        there = not alone and dist.is_available() and dist.is_initialized()
        self.group = group
        self.size = dist.get_world_size(group) if there else 1
        self.rank = dist.get_rank(group) if there else 0

    def __deepcopy__(self, memo: dict[int, object]) -> "Group":
        return self

    def __reduce__(self) -> tuple[object, ...]:
        if self.group is not None:
            remedy = "Save the state_dict, which does not depend on processes"
            raise ValueError(expected("group", self.group, "the default group, None, for a pickle", remedy))
        return _restored, (self.size, self.rank)

    def sizes(self, batch: Tensor) -> list[int]:
        """Return the number of rows that each process has of a batch."""
        if self.size == 1:
            return [batch.shape[0]]
        sizes = torch.empty(self.size, dtype=torch.int64, device=batch.device)
        _renamed("all_gather_single", "all_gather_into_tensor")(
            sizes, sizes.new_tensor([batch.shape[0]]), group=self.group
        )
        return sizes.tolist()

    def local(self, sizes: Sequence[int]) -> slice:
        """Return where this process's rows are among all of them."""
        first = sum(sizes[: self.rank])
        return slice(first, first + sizes[self.rank])

    def gather(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the rows of all processes one after another, (sum of sizes, ...)."""
        if self.size == 1:
            return rows
        longest = max(sizes)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: rows.shape[0]] = rows
        everyone = rows.new_empty(self.size * longest, *rows.shape[1:])
        _renamed("all_gather_single", "all_gather_into_tensor")(everyone, padded, group=self.group)
        if min(sizes) == longest:
            return everyone
        return torch.cat([part[:size] for part, size in zip(everyone.split(longest), sizes, strict=True)])

    def scatter_sum(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return this process's part of the sum over processes of (sum of sizes, ...)."""
        if self.size == 1:
            return rows
        longest = max(sizes)
        padded = rows.new_zeros(self.size, longest, *rows.shape[1:])
        for part, mine in zip(padded, rows.split(list(sizes)), strict=True):
            part[: mine.shape[0]] = mine
        summed = rows.new_empty(longest, *rows.shape[1:])
        _renamed("reduce_scatter_single", "reduce_scatter_tensor")(summed, padded.flatten(0, 1), group=self.group)
        return summed[: sizes[self.rank]]

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """Take the largest over processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return tensor

    def broadcast(self, tensor: Tensor, rank: int) -> None:
        """Overwrite ``tensor`` with that of ``rank``."""
        if self.size > 1:
            dist.broadcast(tensor, group=self.group, group_src=rank)
