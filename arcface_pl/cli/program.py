"""How the present command was typed, for help and error lines; lines on a terminal."""

import re
import shutil
import sys
import textwrap
from pathlib import Path


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


def laid_out(text: str) -> str:
    """Fill the paragraphs of a help text to the terminal's width; rows of two columns continue below the second."""
    return "\n\n".join(map(_filled, text.split("\n\n")))


def _filled(paragraph: str) -> str:
    entries: list[tuple[str, int]] = []  # each with the indent of its further lines
    for line in paragraph.splitlines():
        indent = len(line) - len(line.lstrip())
        if entries and indent == entries[-1][1]:
            entries[-1] = (f"{entries[-1][0]} {line.strip()}", indent)
        else:
            gap = re.search(r"(?<=\S) {2,}(?=\S)", line)
            entries.append((line, gap.end() if gap else indent + 4 * (indent > 0)))
    width = max(shutil.get_terminal_size().columns - 1, 20)
    return "\n".join(
        textwrap.fill(
            entry,
            width,
            subsequent_indent=" " * min(indent, width // 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for entry, indent in entries
    )
