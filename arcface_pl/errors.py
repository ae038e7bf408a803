"""Every exception that tells a user of a mistake or a fault that the user can do something about."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

# What a user can mend: a file that is missing or in the way, a permission, a full or read-only disk, a quota, a limit
_MENDABLE = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_MENDABLE_CODES = {"ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ENAMETOOLONG", "ELOOP", "EMFILE", "ENFILE", "ESTALE"}


def expected(name: str, got: object, accepted: str, remedy: str = "") -> str:
    """Word an error about a value, the same way everywhere.

    Args:
        name: Full name of the argument or setting.
        got: Its value.
        accepted: What is accepted, such as "a number above 0".
        remedy: What to do about it, if that does not follow from ``accepted``.

    Example:
        >>> expected("margin", -1, "radians in [0, pi)")
        'margin: got -1; expected radians in [0, pi)'
    """
    return f"{name}: got {got!r}; expected {accepted}" + (f". {remedy}" if remedy else "")


def listed(names: Sequence[object], most: int = 10) -> str:
    """Join names with commas, control characters escaped: the first ``most``, and how many more there are.

    Example:
        >>> listed(range(12))
        '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
    """
    more = len(names) - most
    return ", ".join(map(printable, names[:most])) + (f" and {more:,} more" if more > 0 else "")


def printable(text: object) -> str:
    """Escape control characters, line breaks and undecodable bytes, as file and class names may have.

    Example:
        >>> printable(f"a{chr(7)}b") == "a" + repr(chr(7))[1:-1] + "b"
        True
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in str(text))


def csv_value(value: Any) -> Any:
    """Escape text that a spreadsheet would run as a formula, and control characters.

    Example:
        >>> csv_value("=1+1"), csv_value(-1.5)
        ("'=1+1", -1.5)
    """
    if isinstance(value, str):
        return f"'{printable(value)}" if value.startswith(("=", "+", "-", "@")) else printable(value)
    return str(value).lower() if isinstance(value, bool) else value


class UserError(ValueError):
    """A setting, file or picture that cannot be used: the message names it, what it got and what it accepts.

    The command line prints such a message on one line, without a traceback, and exits with code 2.
    """


@contextmanager
def file_errors() -> Iterator[None]:
    """Turn what the system refuses to read or write into a `UserError` of one line.

    Raises:
        UserError: Names the file where the system does, and the reason.
    """
    try:
        yield
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0)
        if code is None or not (isinstance(error, _MENDABLE) or code in _MENDABLE_CODES):
            raise
        if error.filename is None and "temporary directory" in str(error.strerror):  # the words of tempfile
            given = os.environ.get("TMPDIR")
            raise UserError(expected("$TMPDIR", given, "a folder that can be written", str(error.strerror))) from error
        raise UserError(f"{error.filename or 'a file of the run'}: {error.strerror}") from error


@contextmanager
def readable(name: str, path: object, accepted: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn what the system, or a reader that raises ``kinds``, has against a file into a `DataError` of one line."""
    refused: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except refused as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(expected(name, str(path), f"{accepted} ({reason})")) from None


class SettingsError(UserError):
    """A setting, flag or config file that cannot be used."""


class DataError(UserError):
    """A data file is missing, damaged or cannot be fetched; the message names it, what was expected and what found."""


class FileError(UserError):
    """A file that cannot be used; the message names it, what is wrong with it and what to do."""

    def __init__(self, path: str | Path, fault: str, remedy: str) -> None:
        super().__init__(f"{path}: {' '.join(fault.split())}; {remedy}")


class CheckpointError(FileError):
    """A checkpoint that cannot be used."""


class GalleryError(FileError):
    """A gallery of enrolled names that cannot be used."""


class PretrainedError(FileError):
    """A folder of `Recognizer.save_pretrained` that cannot be used."""


class ExportError(UserError):
    """A model that cannot be exported, or an exported file whose outputs differ from the model's."""


class NonFiniteError(UserError):
    """A loss or gradient that is NaN or infinite; weights and checkpoints are those of the step before."""

    def __init__(self, what: str, step: int | None = None) -> None:
        place = "" if step is None else f" at step {step}"
        super().__init__(
            f"{what}{place}: weights and checkpoints are those from before it. Lower model.optimizer.lr, or find the "
            "operation with --detect_anomaly true"
        )


def folded(text: str, stream: TextIO | None) -> str:
    """Break a line between words where ``stream`` is a terminal, which would break it within them.

    Characters count by the columns they take, such as two for Chinese.
    """
    if stream is None or not stream.isatty():
        return text
    from rich.cells import cell_len

    width = max(shutil.get_terminal_size().columns - 1, 20)
    lines: list[str] = []
    for word in text.split():
        if lines and cell_len(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)
