"""Signals that ask a process to end: stop training at a resumable point, anything else at once."""

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from arcface_pl.errors import expected

STOP_SIGNALS = ("TERM", "INT", "HUP", "XCPU", "USR1", "USR2")
"""A closed terminal sends HUP; a cluster XCPU, USR1 or USR2 before its time limit. Windows has TERM and INT only."""

_UNCATCHABLE = ("KILL", "STOP")


class Stopped(SystemExit):
    """A signal ended the run; the exit code is 128 plus its number: 143 for SIGTERM, 130 for SIGINT.

    Attributes:
        signum: The signal.
        agreed: Whether every process of the run stops at the same step.
    """

    def __init__(self, signum: int, agreed: bool = False) -> None:
        super().__init__(128 + signum)
        self.signum = signal.Signals(signum)
        self.agreed = agreed


def check_signals(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of signals without SIG.

    Raises:
        ValueError: If this system has no such signal, or no process may handle it.
    """
    short = tuple(str(name).upper().removeprefix("SIG") for name in names)
    for given, name in zip(names, short, strict=True):
        if name in _UNCATCHABLE or f"SIG{name}" not in {
            *signal.Signals.__members__,
            *map("SIG{}".format, STOP_SIGNALS),
        }:
            raise ValueError(expected("signals", given, f"names of signals, such as {', '.join(STOP_SIGNALS)}"))
    return short


def _handle_with(
    handler: Callable[[int, FrameType | None], Any], names: Sequence[str] = STOP_SIGNALS
) -> dict[signal.Signals, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}  # Python allows handlers in the main thread only
    # A signal that is ignored stays so: nohup ignores HUP.
    known = [signal.Signals[f"SIG{name}"] for name in names if f"SIG{name}" in signal.Signals.__members__]
    heard = [signum for signum in known if signal.getsignal(signum) is not signal.SIG_IGN]
    return {signum: signal.signal(signum, handler) for signum in heard}


def _leave_terminal(signum: int) -> None:
    """After a hangup, discard what is written to a terminal that is gone: it would be an error."""
    if signum != getattr(signal, "SIGHUP", None):
        return
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _raise(signum: int, frame: FrameType | None) -> None:
    _leave_terminal(signum)
    raise Stopped(signum)


def end_at_once() -> dict[signal.Signals, Any]:
    """Have signals raise `Stopped` from now on, where there is nothing to save.

    Lightning exits with code 1 on SIGINT, and waits for other processes inside its SIGTERM handler.

    Returns:
        The handlers before, for `restore`.
    """
    return _handle_with(_raise)


def restore(handlers: dict[signal.Signals, Any]) -> None:
    """Reinstall earlier handlers; one that Python did not install becomes the default."""
    for signum, handler in handlers.items():
        signal.signal(signum, signal.SIG_DFL if handler is None else handler)


class StopRequest:
    """Notes a signal during training, which stops when it can; a second signal ends at once.

    Args:
        names: The signals, without SIG. Others keep their handlers.
    """

    def __init__(self, names: Sequence[str] = STOP_SIGNALS) -> None:
        self.names = names
        self.signum = 0
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Start noting signals."""
        self.signum = 0
        self._before = _handle_with(self._note, self.names)

    def release(self) -> None:
        """Reinstall the handlers before `listen`."""
        before, self._before = self._before, {}
        restore(before)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        _leave_terminal(signum)
        if self.signum:
            raise Stopped(signum)
        self.signum = signum
