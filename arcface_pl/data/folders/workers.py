"""`Workers`: an ordered, stateless map over worker processes."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from arcface_pl.errors import DataError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Workers(Generic[ItemT, ResultT]):
    """Calls a function on items in worker processes, which work ahead.

    A call depends on its item only (random numbers are drawn beforehand), so that results do not depend on the number
    of workers.

    Args:
        function: Called with an item; tensors in its result are passed through shared memory.
        num_workers: Number of processes; 0 to call ``function`` in this one.
        keep: Keep the processes from one `map` to the next.
        pin_memory: Put tensors in page-locked memory, for fast copies to a GPU.
    """

    def __init__(
        self,
        function: Callable[[ItemT], ResultT],
        num_workers: int,
        *,
        keep: bool = False,
        pin_memory: bool = False,
    ) -> None:
        self._items: list[ItemT] = []
        self._loader = DataLoader(
            _Calls(function),
            sampler=self._items,
            batch_size=None,
            num_workers=num_workers,
            persistent_workers=keep and num_workers > 0,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # otherwise every pass would draw from the generator of dropout
        )
        # The garbage collector closes the queues of a loader that only a cycle still holds, before the loader tells its
        # processes to end: they never hear of it, and each is waited for, 5 s. Held here, it is not part of the cycle.
        weakref.finalize(self, _forget, self._loader).atexit = False

    def map(self, items: Sequence[ItemT]) -> Iterator[ResultT]:
        """Yield the function's result for each item, in order.

        Raises:
            DataError: If a process was killed.
        """
        self._items[:] = items
        try:
            yield from self._loader
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a process that reads images was killed ({error}). If memory is short, use fewer data.num_workers"
            ) from error


def _forget(loader: DataLoader) -> None:
    """Drop the last reference to a loader, which ends its processes."""


class _Calls(Dataset):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __getitem__(self, item: Any) -> Any:
        return self.function(item)


def _as_it_is(result: Any) -> Any:
    return result
