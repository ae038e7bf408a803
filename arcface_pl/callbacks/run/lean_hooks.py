"""What a step of Lightning's Trainer calls, less what does nothing."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
from lightning.pytorch.profilers import PassThroughProfiler

__all__ = ["drop_empty_hooks", "restore_hooks"]

_EVERY_STEP = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


_NOTHING = nullcontext()


class _NoProfiler(PassThroughProfiler):
    """Lightning's own makes a generator of each of the two dozen places in a step that it does not time."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return _NOTHING


def drop_empty_hooks(trainer: Any) -> None:
    """Have the Trainer pass over the hooks of a step that a callback has not made its own, and time nothing.

    It calls six in a step for each of a dozen callbacks, a quarter of a millisecond in all, and passes over what is
    not callable. A profiler that was asked for stays.

    Args:
        trainer: A `lightning.Trainer`, about to train.
    """
    restore_hooks(trainer)  # a fit that ended in an exception has not
    for callback in trainer.callbacks:
        for name in _EVERY_STEP:
            own = name in vars(callback) or getattr(type(callback), name, None) is not getattr(L.Callback, name)
            if not own:
                vars(callback)[name] = None
    if type(trainer.profiler) is PassThroughProfiler:
        trainer.profiler = _NoProfiler()


def restore_hooks(trainer: Any) -> None:
    """Undo `drop_empty_hooks`, where it was done.

    Args:
        trainer: The same.
    """
    for callback in trainer.callbacks:
        for name in _EVERY_STEP:
            if vars(callback).get(name, callback) is None:
                del vars(callback)[name]
    if isinstance(trainer.profiler, _NoProfiler):
        trainer.profiler = PassThroughProfiler()
