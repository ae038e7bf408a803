"""Find the checkpoint that a command was given: by path, or by a name in the newest run.

Imports no Lightning, which takes seconds, and torch only to read a file.
"""

import os
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from arcface_pl.checkpoints.runs import ACCEPTED, NAMES, Run, check_asked, known_runs
from arcface_pl.errors import CheckpointError, SettingsError, expected, printable

if TYPE_CHECKING:
    from arcface_pl.checkpoints.reading import CheckpointFile


def find_checkpoint(
    asked: str, root: str | None = None, *, option: str = "checkpoint", announces: bool = True, mapped: bool = False
) -> "CheckpointFile":
    """Find and read a checkpoint.

    Args:
        asked: A path; last or best: that file of the newest run; last-good: its newest undamaged file.
        root: Where runs are looked for, see `known_runs`; unset: the current folder.
        option: Name of the setting that ``asked`` was given to, for messages.
        announces: Print to standard error which file a name stands for, and its age.
        mapped: See `read_checkpoint`.

    Returns:
        Its path and content, so that it is read once per command.

    Raises:
        SettingsError: If there is none, or several could be meant.
        CheckpointError: If the file is damaged; for last and best this names the newest one that is not.
    """
    from arcface_pl.checkpoints.reading import CheckpointFile, read_checkpoint

    if asked not in NAMES:
        if os.path.isfile(asked) and Path(asked).suffix in (".onnx", ".pt2"):
            raise SettingsError(expected(option, asked, ACCEPTED, "An exported file is not a checkpoint"))
        check_asked(asked, option)
        return CheckpointFile(Path(asked), read_checkpoint(asked, mapped=mapped))
    chosen = _read(find_named(asked, root, option), asked, mapped)
    if announces:
        print(f"{asked}: {printable(chosen.path)} ({age(chosen.path)} old)", file=sys.stderr)  # noqa: T201
    return chosen


def find_named(asked: str, root: str | None, option: str) -> Path:
    """Return the file that one of `NAMES` stands for, without opening it.

    Args:
        asked: last, best or last-good.
        root: See `known_runs`; unset: the current folder.
        option: For the message: the setting that it was given to.

    Raises:
        SettingsError: If there is none, or several could be meant.
    """
    folder = newest_run(asked, Path(root or "."), option)
    found = _newest_first(folder.glob("*.ckpt") if asked == "last-good" else [folder / f"{asked}.ckpt"])
    if not found:
        there = ", ".join(path.name for path in _newest_first(folder.glob("*.ckpt"))[:3])
        remedy = f"The newest run, {folder.parent}, has {there}, but no {asked}.ckpt. Give the path of the one you mean"
        raise SettingsError(expected(option, asked, ACCEPTED, remedy))
    return found[0]


def age(path: Path) -> str:
    """Return how long ago a file was written, in its largest unit: "3 minutes"."""
    seconds = int(max(0.0, time.time() - path.stat().st_mtime))
    units = {"day": timedelta(days=1), "hour": timedelta(hours=1), "minute": timedelta(minutes=1)}
    for unit, length in units.items():
        if number := int(seconds // length.total_seconds()):
            return f"{number:,} {unit}{'s' * (number > 1)}"
    return f"{seconds} second{'s' * (seconds != 1)}"


def newest_run(asked: str, root: Path, option: str) -> Path:
    """Return the folder of checkpoints of the run that was started last, of those that have any.

    Args:
        asked: For the message: the name that was given.
        root: See `known_runs`.
        option: For the message: the setting that it was given to.

    Raises:
        SettingsError: If there is none, or several could be meant.
    """
    runs: dict[float, list[Run]] = {}
    for run in known_runs(root):
        if any(os.path.isfile(path) for path in run.folder.glob("checkpoints/*.ckpt")):
            runs.setdefault(run.started, []).append(run)
    if not runs:
        runs_folder = root / "lightning_logs"
        wanted = "checkpoint" if asked == "last-good" else f"checkpoints/{asked}.ckpt"
        raise SettingsError(expected(option, asked, ACCEPTED, f"No run under {runs_folder} has a {wanted}"))
    newest = runs[max(runs)]
    if len(newest) > 1:
        listed = ", ".join(f"{run.folder / 'checkpoints'}" for run in newest)
        raise SettingsError(expected(option, asked, "a path, where several runs are the newest", f"They are {listed}"))
    return newest[0].folder / "checkpoints"


def _read(path: Path, asked: str, mapped: bool) -> "CheckpointFile":
    from arcface_pl.checkpoints.reading import CheckpointFile, read_checkpoint

    try:
        return CheckpointFile(path, read_checkpoint(path, mapped=mapped))
    except CheckpointError as error:
        good = _newest_good(path.parent, damaged=path)
        if asked == "last-good" and good is not None:
            return good
        remedy = "no other of its run is whole" if good is None else f"{good.path} is whole: last-good takes it"
        raise CheckpointError(path, str(error).rpartition(";")[0].removeprefix(f"{path}: "), remedy) from error


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    # A broken link has no time, nor has a file that a running training has just replaced
    return sorted(filter(os.path.isfile, paths), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _newest_good(folder: Path, damaged: Path) -> "CheckpointFile | None":
    from arcface_pl.checkpoints.reading import CheckpointFile, read_checkpoint

    for path in _newest_first(folder.glob("*.ckpt")):
        try:
            if path != damaged:
                return CheckpointFile(path, read_checkpoint(path))
        except CheckpointError:
            continue
    return None
