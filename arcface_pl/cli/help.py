"""The help of each command, from ``help_texts/``; of a tool, what stands before and after its flags."""

import re
from pathlib import Path

SUBCOMMANDS = ("fit", "validate", "test", "predict")
_FOLDER = Path(__file__).parent / "help_texts"


def help_text(name: str, **places: str) -> str:
    """Return a text; a line ``{NAME}`` in it stands for that one of ``places``, or for the text of that name."""
    text = (_FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    return re.sub(r"(?m)^\{(\w+)\}\n", lambda other: places.get(other[1]) or help_text(other[1]), text)
