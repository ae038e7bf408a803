"""Rows that are spread over the processes of a sharded head, as a checkpoint takes them: a few at a time."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_BLOCK_CELLS = 1 << 22


class ShardRows:
    """Stands for a tensor in a checkpoint whose rows are spread over the processes of a sharded head.

    Args:
        head: The `ShardedHead`.
        local: This process's rows.
    """

    def __init__(self, head: Any, local: Tensor) -> None:
        self.head, self.local, self.dtype = head, local.detach(), local.dtype
        self.shape = torch.Size((head.num_classes * head.sub_centers, *local.shape[1:]))

    def blocks(self) -> Iterator[Tensor]:
        """Yield the rows of all processes in order, a few at a time, on the CPU; collective call.

        All processes have to take all blocks, which share one buffer.
        """
        group, device = self.head.group, self.head.weight.device
        size = max(1, _BLOCK_CELLS // max(1, self.shape[1:].numel()))
        buffer = self.local.new_empty(size, *self.shape[1:], device=device)
        for rank in range(group.size):
            rows = self.head._rows(rank)
            for start in range(0, rows.stop - rows.start, size):
                block = buffer[: min(size, rows.stop - rows.start - start)]
                if rank == group.rank:
                    block.copy_(self.local[start : start + size])
                group.broadcast(block, rank)
                yield block.cpu()
