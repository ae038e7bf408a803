"""Turning what the libraries raise over a user's mistake into one clear line."""

import argparse
import errno
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from lightning.fabric.utilities.exceptions import MisconfigurationException

from arcface_pl.errors import CheckpointError, SettingsError, UserError

__all__ = ["file_errors", "library_errors", "plain_types", "settings_errors"]

# What a user can mend: a full or read-only disk, a quota, a limit, a permission, a file where a folder belongs.
_MENDABLE = {
    "ENOSPC",
    "EDQUOT",
    "EFBIG",
    "EROFS",
    "EACCES",
    "EPERM",
    "ENOTDIR",
    "EISDIR",
    "EEXIST",
    "ENOENT",
    "EIO",
    "ENAMETOOLONG",
    "ELOOP",
}

# Where what a setting makes impossible is found out as late as in the run itself.
_LIBRARIES = ("lightning", "torch.optim")
_RESTORING = ".checkpoint_connector"

# What building the parser, the modules and the Trainer raises over a setting.
_RAISED_OVER_SETTINGS = (
    argparse.ArgumentError,
    MisconfigurationException,
    ValueError,
    TypeError,
    ImportError,
    RuntimeError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
)


@contextmanager
def settings_errors(key: str = "", names: Iterable[str] = (), culprit: Callable[[], str] = str) -> Iterator[None]:
    """Turn whatever the body raises over a setting into a `SettingsError` of one line.

    Args:
        key: Full name of the settings the body is about, to be named where the error does not.
        names: Names of those settings, to be looked for in what the error says.
        culprit: Asked for the setting's name where the error says none of them; may answer "".
    """
    try:
        yield
    except SettingsError:
        raise
    except _RAISED_OVER_SETTINGS as error:
        message = _explain(str(error)) or type(error).__name__
        if key and not re.match(rf"{re.escape(key)}[.:]", message):
            if re.match(r"[a-z_]+[0-9]*(:| must )", message):  # "margin must be ..."
                message = f"{key}.{message}"
            else:
                name = (
                    next((name for name in names if re.search(rf"(?<![\w.]){name}(?![\w.])", message)), "") or culprit()
                )
                message = f"{key}.{name}: {message}" if name else f"{key}: {message}"
        raise SettingsError(message) from error


@contextmanager
def library_errors(checkpoint: Path | None) -> Iterator[None]:
    """Turn into one line what Lightning or an optimizer says, in the run, of settings that do not go together.

    Args:
        checkpoint: The file that the run begins with.

    Raises:
        SettingsError: The library's own words, and that ``--traceback`` shows where.
        CheckpointError: The same, where it was said while the checkpoint's content was taken in.
    """
    try:
        yield
    except UserError:
        raise
    except _RAISED_OVER_SETTINGS as error:
        rooms = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
        message = f"{_explain(str(error)).strip()} (--traceback shows where)"
        if checkpoint is not None and any(room.endswith(_RESTORING) for room in rooms):
            raise CheckpointError(checkpoint, f"what it holds does not fit: {message}", "use another one") from error
        said_by_library = isinstance(error, ValueError | RuntimeError) and rooms[-1].startswith(_LIBRARIES)
        if not said_by_library and not isinstance(error, MisconfigurationException):
            raise
        raise SettingsError(message) from error


@contextmanager
def file_errors() -> Iterator[None]:
    """Turn what the system refuses to read or write into a `UserError` of one line.

    Raises:
        UserError: Names the file where the system does, and the reason.
    """
    try:
        yield
    except OSError as error:
        if errno.errorcode.get(error.errno or 0) not in _MENDABLE:
            raise
        raise UserError(f"{error.filename or 'a file of the run'}: {error.strerror}") from error


def _explain(message: str) -> str:
    """Condense a parser's nested report to "full.key: got value, but it accepts ..."."""
    keys = re.findall(r'(?:Parser key|Key) "([^"]+)"', message)
    name = ".".join(part for key in keys for part in key.split(".") if part != "init_args")
    if union := re.search(r"Subtypes: \[(.*?)\]\n.*Given value: (.*)", message, re.DOTALL):
        return f"{name}: got {union.group(2).strip()}, but it accepts {plain_types(union.group(1))}"
    if single := re.search(r"Expected an? (.*)\. Got value: (.*)", message):
        return f"{name}: got {single.group(2).strip()}, but it accepts {plain_types(single.group(1))}"
    detail = plain_types(" ".join(line.strip() for line in message.splitlines()))
    return f"{name}: {detail}" if name and name not in detail else detail


def plain_types(text: str) -> str:
    """Write Python's types as a config has them.

    Args:
        text: Their names, such as ``Optional[int]`` or ``<class 'float'>``, among other words.

    Returns:
        The text without what only a programmer reads.
    """
    text = re.sub(r"<class '(?:builtins\.)?([\w.]+)'>", r"\1", text)
    choices = re.sub(r"(?:typing\.)?Literal\[([^\]]*)\]", lambda match: match.group(1).replace("'", ""), text)
    return choices.replace("NoneType", "null").replace("typing.", "")
