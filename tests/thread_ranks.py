"""Ranks of a process group as threads of one process: its collective calls in milliseconds, without sockets."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from arcface_pl.functional.process_group import Group


class ThreadGroup(Group):
    """The calls of `Group` between threads: each waits for all and reads what they brought."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, shelf: list[Any]) -> None:
        super().__init__(alone=True)
        self.rank, self.size, self.barrier, self.shelf = rank, size, barrier, shelf

    def exchange(self, value: Any) -> list[Any]:
        self.shelf[self.rank] = value.clone()
        self.barrier.wait()
        everyone = list(self.shelf)
        self.barrier.wait()
        return everyone

    def sizes(self, batch: Tensor) -> list[int]:
        return [int(each) for each in self.exchange(torch.tensor(len(batch)))]

    def gather(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        return torch.cat(self.exchange(rows))

    def scatter_sum(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        return torch.stack(self.exchange(rows)).sum(dim=0)[self.local(sizes)]

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self.exchange(tensor)).sum(dim=0))

    def max(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self.exchange(tensor)).amax(dim=0))

    def broadcast(self, tensor: Tensor, rank: int) -> None:
        tensor.copy_(self.exchange(tensor)[rank])


def on_ranks(size: int, work: Callable[[ThreadGroup], Any]) -> list[Any]:
    """Return what ``work(group)`` returns on each rank; an error on one ends all."""
    barrier, shelf = threading.Barrier(size, timeout=20), [None] * size

    def run(rank: int) -> Any:
        try:
            return work(ThreadGroup(rank, size, barrier, shelf))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
