"""Turning what the libraries raise over a user's mistake into one clear line."""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from arcface_pl.cli.memory import is_out_of_memory, largest_of, too_large, too_large_in_run
from arcface_pl.cli.parser_errors import explain
from arcface_pl.errors import CheckpointError, SettingsError, UserError, expected

# Where what a setting makes impossible is found out as late as in the run itself.
_LIBRARIES = ("lightning", "torch.optim")
_NO_BATCH = r"You requested to check (\S+) of the `(\w+)_dataloader` but \S+ \* (\d+) < 1"
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


class ConstructorError(BaseException):
    """Carries a `SettingsError` through jsonargparse, which takes any Exception as a sign to try another type."""


@contextmanager
def settings_errors(key: str = "", arguments: Any = None, defaults: Any = None) -> Iterator[None]:
    """Turn what the body raises over a setting into a `SettingsError` of one line.

    Args:
        key: Full name of the settings that the body is about, for errors that do not name it.
        arguments: Those settings by name. One that the error names, or whose value it is the only one to show, is added
            to the name.
        defaults: Those of the arguments that have one, by name: of several numbers that memory cannot hold, the one
            farthest above its default is to blame.
    """
    try:
        yield
    except SettingsError:
        raise
    except ConstructorError as error:
        raise error.__cause__ or error from None
    except _RAISED_OVER_SETTINGS as error:
        if is_out_of_memory(error) and (name := largest_of(dict(arguments or {}), defaults)):
            raise SettingsError(too_large(f"{key}.{name}", arguments[name], error)) from error
        text = f"KeyError: {error}" if isinstance(error, KeyError) else str(error)  # of which the text is the key only
        message = explain(text.partition("\nException raised from")[0]).removeprefix(": ") or type(error).__name__
        if key and not re.match(rf"{re.escape(key)}[.:]", message):
            named = re.match(r"[a-z_][a-z_0-9]*(\[.*?\])?(:| must )", message)  # "margin: got ..."
            found = "" if named else _argument_meant(message, dict(arguments or {}))
            value = arguments[found] if found else None
            if isinstance(value, str | int | float | list | tuple) and str(value) not in message:
                message = f"got {value}; {message}"
            message = f"{key}.{message}" if named else f"{key}{'.' * bool(found)}{found}: {message}"
        raise SettingsError(message) from error


def _argument_meant(message: str, arguments: dict[str, Any]) -> str:
    if name := next((name for name in arguments if re.search(rf"(?<![\w.]){name}(?![\w.])", message)), ""):
        return name
    shown = {word for word in re.split(r"[^\w.+-]+", message) if len(word) > 1}
    values = {name: value if isinstance(value, list | tuple) else [value] for name, value in arguments.items()}
    fitting = [name for name, value in values.items() if shown & set(map(str, value))]
    return fitting[0] if len(fitting) == 1 else ""


@contextmanager
def library_errors(checkpoint: Path | None, cli: Any = None) -> Iterator[None]:
    """Turn into one line what is said, in the run, of settings that do not go together or do not fit in memory.

    Args:
        checkpoint: The file that the run begins with.
        cli: The `ArcFaceCLI`, if it is built.

    Raises:
        SettingsError: The library's own words, and that ``--traceback`` shows where.
        CheckpointError: The same, where it was said while the checkpoint's content was taken in.
    """
    try:
        yield
    except UserError:
        raise
    except ConstructorError as error:  # of an optimizer or schedule, which are built in the run
        raise error.__cause__ or error from None
    except _RAISED_OVER_SETTINGS as error:
        rooms = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
        if cli is not None and is_out_of_memory(error):
            raise SettingsError(too_large_in_run(cli, error, rooms)) from error
        if cli is not None and (share := re.match(_NO_BATCH, str(error))):
            name = "overfit_batches" if cli.trainer.overfit_batches else f"limit_{share[2]}_batches"
            accepted = f"a share that makes one of the {share[3]} {share[2]} batches, or a number of batches"
            raise SettingsError(expected(f"trainer.{name}", float(share[1]), accepted)) from error
        message = f"{explain(str(error)).strip()} (--traceback shows where)"
        if checkpoint is not None and any(room.endswith(_RESTORING) for room in rooms):
            raise CheckpointError(checkpoint, f"what it holds does not fit: {message}", "use another one") from error
        said_by_library = isinstance(error, ValueError | RuntimeError) and rooms[-1].startswith(_LIBRARIES)
        if not said_by_library and not isinstance(error, MisconfigurationException):
            raise
        raise SettingsError(message) from error
