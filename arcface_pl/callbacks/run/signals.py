"""Signals that ask a process to end: stop training at a resumable point, anything else at once."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

# A closed terminal sends HUP, a cluster XCPU or USR1 before its time limit. Windows has TERM and INT only.
_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGXCPU", "SIGUSR1")
_SIGNALS = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)


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


def _handle_with(handler: Callable[[int, FrameType | None], Any]) -> dict[signal.Signals, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}  # Python allows handlers in the main thread only
    # A signal that is ignored stays so: nohup ignores HUP.
    heard = [signum for signum in _SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
    return {signum: signal.signal(signum, handler) for signum in heard}


def _raise(signum: int, frame: FrameType | None) -> None:
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
    """Notes a signal during training, which stops when it can; a second signal ends at once."""

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Start noting signals."""
        self.signum = 0
        self._before = _handle_with(self._note)

    def release(self) -> None:
        """Reinstall the handlers before `listen`."""
        before, self._before = self._before, {}
        restore(before)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            raise Stopped(signum)
        self.signum = signum
