"""Which checkpoint a command is given: by its path, or by a name in the newest run.

Imports no Lightning, which takes seconds, so that what only uses a model answers soon.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from arcface_pl.checkpoints.reading import read_checkpoint
from arcface_pl.errors import CheckpointError, SettingsError

__all__ = ["find_checkpoint"]

NAMES = ("last", "last-good", "best")


def find_checkpoint(asked: str, root: str | None = None, *, option: str = "") -> Path:
    """Find it.

    Args:
        asked: A path; or last, best or last-good, of the newest run that has one: the newest whole checkpoint of it.
        root: Folder that holds lightning_logs/; unset: the current one.
        option: What it was given to, with a space after it, for messages.

    Returns:
        Its path.

    Raises:
        SettingsError: If there is none.
        CheckpointError: If the one that a name stands for is damaged: names the newest that is not.
    """
    if asked not in NAMES:
        # Path's own is_file raises for a name that is too long, or in a folder that may not be entered
        if not os.path.isfile(asked):
            fault = "it is a folder" if os.path.isdir(asked) else "there is no such file"
            raise SettingsError(f"{option}{asked}: {fault}; accepts a checkpoint's path, {', '.join(NAMES)}")
        return Path(asked)
    runs = Path(root or ".") / "lightning_logs"
    found = _newest_first(runs.glob(f"*/checkpoints/{'*' if asked == 'last-good' else asked}.ckpt"))
    if not found:
        wanted = "a checkpoint" if asked == "last-good" else f"a checkpoints/{asked}.ckpt"
        raise SettingsError(f"{option}{asked}: no run under {runs} has {wanted}; accepts a path")
    try:
        read_checkpoint(found[0])
    except CheckpointError as error:
        good = _newest_good(found[0].parent)
        if asked == "last-good" and good is not None:
            return good
        remedy = "no other of its run is whole" if good is None else f"{good} is whole: {option}last-good takes it"
        raise CheckpointError(option + asked, str(error).rpartition(";")[0], remedy) from error
    return found[0]


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    # A link that leads nowhere has no time, nor has what a running training has just replaced
    return sorted(filter(os.path.isfile, paths), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _newest_good(folder: Path) -> Path | None:
    for path in _newest_first(folder.glob("*.ckpt")):
        try:
            read_checkpoint(path)
        except CheckpointError:
            continue
        return path
    return None
