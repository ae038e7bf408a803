"""Collective calls of processes that make different numbers of them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from arcface_pl.errors import expected
from arcface_pl.functional.process_group import Group

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Turns:
    """Announces collective calls, so that a process without samples can take part in those of the others.

    Args:
        group: The processes.
        calls: Names of the calls, the same everywhere.

    Attributes:
        follows: Whether this process has no samples in the present call.
    """

    def __init__(self, group: Group, calls: Sequence[str]) -> None:
        self.group, self.calls = group, calls
        self.follows = False
        self._open = self._inside = False

    def begin(self) -> None:
        """Announce calls from now on."""
        self._open = self.group.size > 1

    def end(self, device: torch.device, follow: Callable[[str, torch.dtype], None]) -> None:
        """Follow the calls of the others until none makes any.

        Args:
            device: Of the process's tensors.
            follow: Makes a call without samples, given its name and the dtype of the embeddings.
        """
        while self._open:
            number = self._announce(0, device)
            if number == 0:
                self._open = False
                break
            call, dtype = divmod(number - 1, len(_DTYPES))
            self.follows = self._inside = True
            try:
                follow(self.calls[call], _DTYPES[dtype])
            finally:
                self.follows = self._inside = False

    @contextlib.contextmanager
    def call(self, name: str, like: Tensor) -> Iterator[None]:
        """Announce a call that is made in the body, unless it is part of another.

        Args:
            name: One of the calls.
            like: The embeddings.

        Raises:
            RuntimeError: If another process makes another call.
        """
        if not self._open or self._inside:
            yield
            return
        self._announce(1 + self.calls.index(name) * len(_DTYPES) + _DTYPES.index(like.dtype), like.device)
        self._inside = True
        try:
            yield
        finally:
            self._inside = False

    def _announce(self, number: int, device: torch.device) -> int:
        """Return the number of the call that is made, 0 for none."""
        numbers = self.group.gather(torch.tensor([number], device=device), [1] * self.group.size).tolist()
        made = sorted({each for each in numbers if each})
        if len(made) > 1:
            names = " and ".join(self.calls[(each - 1) // len(_DTYPES)] for each in made)
            accepted = "the same calls, with embeddings of one dtype, in the same order in all processes"
            raise RuntimeError(expected("sharded head", f"{names} at once", accepted))
        return max(numbers)
