"""How the present command was typed, for help and error lines; lines on a terminal."""

import shutil
import sys
import textwrap
from pathlib import Path
from typing import TextIO


def program(command: str = "") -> str:
    """Return how ``command`` is typed: as the user did for this process, which may run one of ``scripts/``."""
    typed = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path("arcface-pl")
    if command and typed.name == f"{command}.py":
        return f"python {sys.argv[0]}"
    start = "python -m arcface_pl" if typed.parts[-2:] == ("arcface_pl", "__main__.py") else "arcface-pl"
    return f"{start} {command}".rstrip()


def as_typed(text: str, command: str) -> str:
    """Have a help text speak of the command in the way it was typed."""
    if command:
        text = text.replace(f"arcface-pl {command}", program(command))
    return text.replace("arcface-pl ", f"{program()} ")


def folded(text: str, stream: TextIO | None) -> str:
    """Break a line between words where ``stream`` is a terminal, which would break it within them."""
    if stream is None or not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns - 1
    return textwrap.fill(text, max(width, 20), break_long_words=False, break_on_hyphens=False)
