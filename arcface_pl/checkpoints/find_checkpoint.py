"""Find the checkpoint that a command was given: by path, or by a name in the newest run.

Imports no Lightning, which takes seconds.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from arcface_pl.checkpoints.reading import CheckpointFile, read_checkpoint
from arcface_pl.errors import CheckpointError, SettingsError, expected

NAMES = ("last", "last-good", "best")
ACCEPTED = f"a checkpoint's path, {', '.join(NAMES)}"


def find_checkpoint(asked: str, root: str | None = None, *, option: str = "checkpoint") -> CheckpointFile:
    """Find and read a checkpoint.

    Args:
        asked: A path; last or best: that file of the newest run that has one; last-good: its newest undamaged file.
        root: Folder that holds lightning_logs/; unset: the current one.
        option: Name of the setting that ``asked`` was given to, for messages.

    Returns:
        Its path and content, so that it is read once per command.

    Raises:
        SettingsError: If there is none.
        CheckpointError: If the file is damaged; for last and best this names the newest one that is not.
    """
    if asked not in NAMES:
        # Path.is_file() raises if the name is too long or a folder may not be entered
        if not os.path.isfile(asked):
            fault = "It is a folder" if os.path.isdir(asked) else "There is no such file"
            raise SettingsError(expected(option, asked, ACCEPTED, fault))
        return CheckpointFile(Path(asked), read_checkpoint(asked))
    runs = Path(root or ".") / "lightning_logs"
    found = _newest_first(runs.glob(f"*/checkpoints/{'*' if asked == 'last-good' else asked}.ckpt"))
    if not found:
        wanted = "checkpoint" if asked == "last-good" else f"checkpoints/{asked}.ckpt"
        raise SettingsError(expected(option, asked, ACCEPTED, f"No run under {runs} has a {wanted}"))
    try:
        return CheckpointFile(found[0], read_checkpoint(found[0]))
    except CheckpointError as error:
        good = _newest_good(found[0].parent, damaged=found[0])
        if asked == "last-good" and good is not None:
            return good
        remedy = "no other of its run is whole" if good is None else f"{good.path} is whole: last-good takes it"
        raise CheckpointError(found[0], str(error).rpartition(";")[0].removeprefix(f"{found[0]}: "), remedy) from error


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    # A broken link has no time, nor has a file that a running training has just replaced
    return sorted(filter(os.path.isfile, paths), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _newest_good(folder: Path, damaged: Path) -> CheckpointFile | None:
    for path in _newest_first(folder.glob("*.ckpt")):
        try:
            if path != damaged:
                return CheckpointFile(path, read_checkpoint(path))
        except CheckpointError:
            continue
    return None
