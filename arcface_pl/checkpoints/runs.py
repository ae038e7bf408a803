"""Which run a checkpoint belongs to: its folder and its checkpoints hold the same identity."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

MARK = ".arcface_pl"
"""File in a run's folder that holds the run's identity."""


class Run(NamedTuple):
    """A run that has begun.

    Attributes:
        folder: Where it keeps its files.
        run_id: Identity, unique; also under ``run`` in its checkpoints and in the first line of its config.yaml.
    """

    folder: Path
    run_id: str


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
    try:
        return (folder / MARK).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
