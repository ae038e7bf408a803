"""Signals: what ends a run on request, at a moment from which it can go on."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["StopRequest", "Stopped", "end_at_once", "restore"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """A signal ended the run; the process's exit code is 128 and the signal's number: 143 or 130.

    Attributes:
        signum: The signal.
        agreed: Whether every process of the run stops at the same step.
    """

    def __init__(self, signum: int, agreed: bool = False) -> None:
        super().__init__(128 + signum)
        self.signum = signal.Signals(signum)
        self.agreed = agreed


def _handle_with(handler: Callable[[int, FrameType | None], Any]) -> dict[signal.Signals, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}  # elsewhere Python allows no handlers
    return {signum: signal.signal(signum, handler) for signum in _SIGNALS}


def _raise(signum: int, frame: FrameType | None) -> None:
    raise Stopped(signum)


def end_at_once() -> dict[signal.Signals, Any]:
    """From now on SIGTERM and SIGINT raise `Stopped` where the process is: there is nothing that needs saving.

    Lightning would exit with code 1 on SIGINT, and wait for the other processes inside its handler of SIGTERM.

    Returns:
        The handlers that were there, for `restore`.
    """
    return _handle_with(_raise)


def restore(handlers: dict[signal.Signals, Any]) -> None:
    """Give the signals back to whoever had them."""
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


class StopRequest:
    """Takes note of SIGTERM and SIGINT while training, which asks when it can stop; a second one ends at once."""

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Begin to take note."""
        self.signum = 0
        self._before = _handle_with(self._note)

    def release(self) -> None:
        """Give the signals back to whoever had them."""
        before, self._before = self._before, {}
        restore(before)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            raise Stopped(signum)
        self.signum = signum
