"""Contexts in which Pillow and libtiff report nothing, in several threads at once."""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_STDERR_LOCK = threading.Lock()
_WARNINGS_LOCK = threading.Lock()
_quiet_depth = 0
_loud: Any = None


@contextmanager
def without_warnings() -> Iterator[None]:
    """Ignore warnings, of which Pillow has many about odd metadata and large images; the size is checked here.

    `warnings.catch_warnings` would leave the filters of one thread to another if they end in another order.
    """
    global _quiet_depth, _loud
    with _WARNINGS_LOCK:
        if _quiet_depth == 0:
            _loud = warnings.catch_warnings()
            _loud.__enter__()
            warnings.simplefilter("ignore")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _WARNINGS_LOCK:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _loud.__exit__(None, None, None)


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard what is written to file descriptor 2: libtiff reports every fault of a damaged file there."""
    with _STDERR_LOCK:
        try:
            saved = os.dup(2)
        except OSError:  # closed: nothing would be shown
            yield
            return
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(null)
