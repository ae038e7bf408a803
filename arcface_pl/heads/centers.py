"""Initial class centers: the same numbers whether they are drawn whole, or some rows of them later."""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

CenterInit = Literal["xavier", "normal", "unit"]
"""Distributions of the initial centers: Xavier's uniform one; N(0, 0.01^2); uniform directions of length 1."""

CENTER_INITS = get_args(CenterInit)
_NORMAL_STD = 0.01
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
    """How a head's centers are drawn.

    Args:
        rows: C * K, centers of all classes.
        dim: D.
        dtype: Of the numbers.
        state: The generator's before the first number.
        init: See `CenterInit`.
    """

    rows: int
    dim: int
    dtype: torch.dtype
    state: Tensor
    init: CenterInit

    @classmethod
    def postponed(cls, rows: int, dim: int, init: CenterInit) -> "CenterDraw | None":
        """Take the numbers from the generator without keeping them, in `deferred_centers`; None outside of it."""
        if not _DEFERRED.get():
            return None
        draw = cls(rows, dim, torch.get_default_dtype(), torch.get_rng_state(), init)
        for _ in draw._blocks(rows, torch.default_generator):
            pass
        return draw

    @classmethod
    def fill(cls, weight: Tensor, init: CenterInit) -> None:
        """Draw all centers into ``weight``, (rows, dim); one without memory takes nothing from the generator."""
        if init == "xavier":
            nn.init.xavier_uniform_(weight)
        elif not weight.is_meta:
            rows, dim = weight.shape
            draw = cls(rows, dim, weight.dtype, torch.get_rng_state(), init)
            with torch.no_grad():
                for first, block in draw._blocks(len(weight), torch.default_generator):
                    weight[first : first + len(block)] = block

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
            block = buffer[: min(size, self.rows - first)]
            if self.init == "xavier":
                block.uniform_(-bound, bound, generator=generator)
            else:
                block.normal_(0, _NORMAL_STD if self.init == "normal" else 1.0, generator=generator)
            if self.init == "unit":
                block.div_(torch.linalg.vector_norm(block, dim=1, keepdim=True))
            yield first, block
