"""How the present command was typed, for help, error and closing lines; paths and lines on a terminal."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path


def program(command: str = "") -> str:
    """Return how ``command`` is typed: as the user did for this process, which may run one of ``scripts/``."""
    typed = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path("arcface-pl")
    script = typed.with_name(f"{command}.py")
    has_command = shutil.which("arcface-pl") is not None
    in_scripts = typed.suffix == ".py" and typed.with_name("fit.py").is_file()
    start = "arcface-pl"
    if command and (typed.name == script.name or (in_scripts and not has_command and script.is_file())):
        return f"{_python()} {word(sys.argv[0] if typed.name == script.name else script)}"
    if typed.parts[-2:] == ("arcface_pl", "__main__.py") or (in_scripts and not has_command):
        start = f"{_python()} -m arcface_pl"
    elif typed.stem == start and not has_command:  # .venv/bin/ that is not activated
        start = word(typed)
    return f"{start} {command}".rstrip()


def tool(name: str, module: str = "") -> str:
    """Return how a command of another package is typed: by ``name``, or as a module where it is not on the path."""
    return name if shutil.which(name) else f"{_python()} -m {module or name}"


def _python() -> str:
    """Return the interpreter as it was typed, without its folder where that is on the path."""
    typed = sys.orig_argv[0]
    name = Path(typed).stem if os.name == "nt" else Path(typed).name
    found = shutil.which(name)
    return name if found is not None and found == shutil.which(typed) else word(typed)


def word(text: object) -> str:
    """Quote a word of a command that is printed to be copied."""
    return subprocess.list2cmdline([str(text)]) if os.name == "nt" else shlex.quote(str(text))


def as_typed(text: str) -> str:
    """Have a text that says ``arcface-pl COMMAND`` speak of the command in the way it was typed."""
    return re.sub(r"\barcface-pl (?:([a-z]+)\b)?", lambda found: program(found[1] or "") + " " * (not found[1]), text)


def shown_path(path: object) -> str:
    """Return a path as it is shortest to read: relative inside the working folder, absolute elsewhere.

    Example:
        >>> shown_path(os.path.join(os.getcwd(), "runs")), shown_path(os.path.join(os.pardir, "runs")).startswith("..")
        ('runs', False)
    """
    full = os.path.abspath(str(path))
    with suppress(ValueError, FileNotFoundError):  # outside; a working folder that was deleted
        return str(Path(full).relative_to(os.getcwd()))
    return full


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
