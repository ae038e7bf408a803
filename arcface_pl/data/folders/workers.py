"""A function called in worker processes, with results in order and no state of its own."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from arcface_pl.errors import DataError

__all__ = ["Workers"]

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Workers(Generic[ItemT, ResultT]):
    """Calls a function for one item after the other, in processes that work ahead.

    All that a call depends on is its item: what is to be random has been drawn before, so that neither the number of
    workers nor what they did before changes a result.

    Args:
        function: Called with an item; a result may hold tensors, which are not copied on their way.
        num_workers: Processes; 0 to call it here.
        keep: Keep the processes from one `map` to the next.
        pin_memory: Put tensors where a GPU copies them from at full speed.
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
            generator=torch.Generator(),  # or every pass would draw from the one that dropout draws from
        )

    def map(self, items: Sequence[ItemT]) -> Iterator[ResultT]:
        """Yield the function's result for each item, in their order.

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
                f"a process that reads images was killed ({error}); where memory is short, accepts fewer num_workers, "
                f"or 0"
            ) from error


class _Calls(Dataset):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __getitem__(self, item: Any) -> Any:
        return self.function(item)


def _as_it_is(result: Any) -> Any:
    return result
