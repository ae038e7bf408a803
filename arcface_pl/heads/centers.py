"""Initial class centers: the same numbers whether they are drawn whole, or some rows of them later."""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK_CELLS = 1 << 20
_DEFERRED: ContextVar[bool] = ContextVar("deferred_centers", default=False)


@contextlib.contextmanager
def deferred_centers() -> Iterator[None]:
    """Have heads that are built in the body draw no centers yet: `shard_head` then draws the rows of its process alone.

    The centers are those that the head would have drawn, and so are all random numbers after it; they come from torch's
    CPU generator. Until `shard_head` the head's ``weight`` has a shape but no numbers: do not build a class here that
    initializes its centers itself.

    Example:
        >>> from arcface_pl import ArcFaceHead, deferred_centers, shard_head
        >>> with deferred_centers():
        ...     head = ArcFaceHead(4, 1000)
        >>> head.weight.is_meta, shard_head(head).weight.is_meta
        (True, False)
    """
    token = _DEFERRED.set(True)
    try:
        yield
    finally:
        _DEFERRED.reset(token)


@dataclass(frozen=True)
class CenterDraw:
    """How a head's centers are drawn: Xavier's uniform distribution over the whole weight.

    Args:
        rows: C * K, centers of all classes.
        dim: D.
        dtype: Of the numbers.
        state: The generator's before the first number.
    """

    rows: int
    dim: int
    dtype: torch.dtype
    state: Tensor

    @classmethod
    def postponed(cls, rows: int, dim: int) -> "CenterDraw | None":
        """Take the numbers from the generator without keeping them, in `deferred_centers`; None outside of it."""
        if not _DEFERRED.get():
            return None
        draw = cls(rows, dim, torch.get_default_dtype(), torch.get_rng_state())
        for _ in draw._blocks(rows, torch.default_generator):
            pass
        return draw

    def take(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """Draw some rows, (n, D): numbers before them are drawn a block at a time and dropped."""
        generator = torch.Generator()
        generator.set_state(self.state)
        taken = torch.empty(rows.stop - rows.start, self.dim, dtype=dtype, device="cpu")
        for first, block in self._blocks(rows.stop, generator):
            begin, end = max(rows.start, first), min(rows.stop, first + len(block))
            if begin < end:
                taken[begin - rows.start : end - rows.start] = block[begin - first : end - first]
        return taken

    def _blocks(self, stop: int, generator: torch.Generator) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row of each block and its numbers, in one buffer: uniform draws on a CPU are a stream."""
        bound = math.sqrt(3.0) * math.sqrt(2.0 / (self.rows + self.dim))  # as in torch.nn.init, to the bit
        size = max(1, _BLOCK_CELLS // self.dim)
        buffer = torch.empty(min(size, self.rows), self.dim, dtype=self.dtype, device="cpu")
        for first in range(0, stop, size):
            yield first, buffer[: min(size, self.rows - first)].uniform_(-bound, bound, generator=generator)
