"""What ``--profiler`` measures, for the user to see: Lightning reports it through a logger."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "profile.txt"
MOST_LINES = 40  # on the terminal: AdvancedProfiler's report of a short run has 27,000


@contextmanager
def profile_reports(folder: Path | None) -> Iterator[None]:
    """Print how the report of a profiler that runs in the body begins, and append all of it to profile.txt.

    A profiler that was given a ``filename`` writes there alone.

    Args:
        folder: The run's; None to print the whole report.
    """
    log = logging.getLogger("lightning.pytorch.profilers")
    before = log.level, log.propagate
    terminal: logging.Handler = logging.StreamHandler()
    handlers = [terminal]
    if folder is not None:
        terminal.setFormatter(_Beginning(folder / NAME))
        handlers.append(logging.FileHandler(folder / NAME, encoding="utf-8", delay=True))  # made with the first report
    log.setLevel(logging.INFO)
    log.propagate = False
    for each in handlers:
        log.addHandler(each)
    try:
        yield
    finally:
        log.setLevel(before[0])
        log.propagate = before[1]
        for each in handlers:
            log.removeHandler(each)
            each.close()


class _Beginning(logging.Formatter):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def format(self, record: logging.LogRecord) -> str:
        lines = record.getMessage().splitlines()
        more = [f"... {len(lines) - MOST_LINES:,} more lines in {self._path}"] if len(lines) > MOST_LINES else []
        return "\n".join(lines[:MOST_LINES] + more)
