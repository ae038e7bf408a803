"""Which run a checkpoint belongs to, and which runs there are: by what the runs themselves record."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from arcface_pl.errors import SettingsError, expected

NAMES = ("last", "last-good", "best")
"""What stands for a checkpoint of the newest run."""
ACCEPTED = f"a checkpoint's path, {', '.join(NAMES)}"

MARK = ".arcface_pl"
"""File in a run's folder: its first line is the run's identity, its second when it was last started."""

ELSEWHERE = ".arcface_pl_runs"
"""File in the folder where runs were started that lie elsewhere: one path a line."""


class Run(NamedTuple):
    """A run that has begun.

    Attributes:
        folder: Where it keeps its files.
        run_id: Identity, unique; also under ``run`` in its checkpoints and in the first line of its config.yaml.
        started: When it was last started or resumed, in seconds since 1970.
    """

    folder: Path
    run_id: str
    started: float = 0.0


def check_asked(asked: str, option: str, *, folders: bool = False) -> None:
    """Refuse a path at which there is no file.

    Args:
        asked: The path, or one of `NAMES`.
        option: Name of the setting that it was given to.
        folders: Accept folders, too.

    Raises:
        SettingsError: If there is none.
    """
    # Path.is_file() raises if the name is too long or a folder may not be entered
    is_folder = os.path.isdir(asked)
    if asked not in NAMES and not os.path.isfile(asked) and not (folders and is_folder):
        raise SettingsError(
            expected(option, asked, ACCEPTED, "It is a folder" if is_folder else "There is no such file")
        )


def run_of(path: Path, content: Mapping[str, Any]) -> Run | None:
    """Return the run of a checkpoint that lies where the run wrote it; None if it was copied elsewhere.

    Args:
        path: The file.
        content: What `read_checkpoint` returned.
    """
    folder, run_id = path.parent.parent, content.get("run")
    if path.parent.name != "checkpoints" or not isinstance(run_id, str):
        return None
    return Run(folder, run_id) if owner_of(folder) == run_id else None


def owner_of(folder: Path) -> str | None:
    """Return the identity of the run that has a folder; None if none has."""
    return _mark_of(folder)[0]


def mark_run(folder: Path, run_id: str) -> None:
    """Record that a run has a folder, and that it is started now.

    Raises:
        OSError: If the file cannot be written.
    """
    (folder / MARK).write_text(f"{run_id}\n{time.time():.6f}\n", encoding="utf-8")


def record_elsewhere(folder: Path) -> None:
    """Record in the current folder a run that `known_runs` would not find from here, as far as it can be written."""
    if any(run.folder.resolve() == folder.resolve() for run in _runs_below(Path())):
        return
    with suppress(OSError):
        known = {path.resolve() for path in _paths_elsewhere(Path())}
        if folder.resolve() not in known:
            with Path(ELSEWHERE).open("a", encoding="utf-8") as file:
                file.write(f"{folder.resolve()}\n")


def known_runs(root: Path) -> list[Run]:
    """Return the runs in a folder: up to two levels below it, and those that were started from there.

    Folders in ``lightning_logs`` without a mark count as runs that were started when their newest checkpoint was
    written.
    """
    found = {run.folder.resolve(): run for run in _runs_below(root)}
    for path in _paths_elsewhere(root):
        run_id, started = _mark_of(path)
        if run_id is not None:
            found.setdefault(path.resolve(), Run(path, run_id, started))
    for folder in _folders(root / "lightning_logs"):
        written = [path.stat().st_mtime for path in folder.glob("checkpoints/*.ckpt") if os.path.isfile(path)]
        if written and folder.resolve() not in found:
            found[folder.resolve()] = Run(folder, "", max(written))
    return list(found.values())


def _runs_below(root: Path) -> Iterator[Run]:
    first = _folders(root)
    for folder in (root, *first, *(inner for each in first for inner in _folders(each))):
        run_id, started = _mark_of(folder)
        if run_id is not None:
            yield Run(folder, run_id, started)


def _folders(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            return [root / each.name for each in entries if not each.name.startswith(".") and each.is_dir()]
    except OSError:
        return []


def _paths_elsewhere(root: Path) -> list[Path]:
    try:
        return [Path(line) for line in (root / ELSEWHERE).read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError):
        return []


def _mark_of(folder: Path) -> tuple[str | None, float]:
    try:
        run_id, _, started = (folder / MARK).read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None, 0.0
    try:
        return run_id, float(started)
    except ValueError:
        return run_id, (folder / MARK).stat().st_mtime
