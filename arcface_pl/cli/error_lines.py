"""Turning what the libraries raise over a user's mistake into one clear line."""

import argparse
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb
from typing import Any

from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException

from arcface_pl.backbones import BACKBONES
from arcface_pl.cli.aliases import meant_by
from arcface_pl.cli.config import import_class
from arcface_pl.cli.memory import is_out_of_memory, largest_of, too_large, too_large_in_run
from arcface_pl.errors import CheckpointError, SettingsError, UserError, expected
from arcface_pl.heads import HEADS

# Where what a setting makes impossible is found out as late as in the run itself.
_LIBRARIES = ("lightning", "torch.optim")
_NO_BATCH = r"You requested to check (\S+) of the `(\w+)_dataloader` but \S+ \* (\d+) < 1"
_RESTORING = ".checkpoint_connector"
_CLASS_PROBLEM = r"^( *)- Problem with given class_path .*\n(?:\1 +.*\n?)*"

_FACTORIES = {
    "model.optimizer": "an optimizer of torch.optim by name, such as AdamW, or the full path of a class",
    "model.lr_schedule": "Constant, Cosine, OneCycle, WarmUp, a schedule of torch.optim.lr_scheduler by name, such as "
    "StepLR, or the full path of a class",
}

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
        message = _explain(str(error).partition("\nException raised from")[0]) or type(error).__name__
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
        message = f"{_explain(str(error)).strip()} (--traceback shows where)"
        if checkpoint is not None and any(room.endswith(_RESTORING) for room in rooms):
            raise CheckpointError(checkpoint, f"what it holds does not fit: {message}", "use another one") from error
        said_by_library = isinstance(error, ValueError | RuntimeError) and rooms[-1].startswith(_LIBRARIES)
        if not said_by_library and not isinstance(error, MisconfigurationException):
            raise
        raise SettingsError(message) from error


def _explain(message: str) -> str:
    """Condense jsonargparse's nested report to "full.name: got value; expected ..."; it has no structured one."""
    # A list of callbacks is tried first, with the class that was named; then a single one, with the base class
    for other in reversed([*re.finditer(_CLASS_PROBLEM, message, re.MULTILINE)][1:]):
        message = message[: other.start()] + message[other.end() :]
    keys = re.findall(r'(?:Parser key|Key) "([^"]+)"', message)
    name = ".".join(part for key in keys for part in key.split(".") if part != "init_args")
    classes = re.findall(r"class_path'?[ =:]+'([\w.]+)'", message)
    if (function := re.search("dot import path string: (.*)", message)) and "typing.Callable" in message:
        return f"{name}: got {function[1]}; expected {_FACTORIES.get(name, 'the full path of a function')}"
    if option := re.search(r"Option '([^']+)' is not accepted", message):
        return _unknown_option(name, option[1], next(filter(import_class, reversed(classes)), ""))
    if flag := re.search(r"unrecognized arguments: --([^\s=]+)", message):
        return f"{flag[1]}: unknown; --help_all lists every setting"
    if required := re.search(r"arguments are required: ([\w.]+)", message):
        full = ".".join(filter(None, (name, required[1])))
        return f"{full}: not set; give --{full}"
    if form := re.search(r'Not of type \w+: Expected (.*?) but got "?(.*?)"?$', message, re.MULTILINE):
        return f"{name}: got {form[2]}; expected {form[1]}"
    values = re.findall(
        r"(?:Got value:|Given value:|import path string:|Import path|No module named) (.*?)(?: does not|\. Got|$)",
        message,
        re.MULTILINE,
    )
    single = re.search(r"Expected an? (.*?)(?:, but got.*)?\. Got value: ", message)
    innermost = re.split(r'(?:Parser key|Key) "', message)[-1]
    union = re.search(r"Subtypes: \[(.*)\]", innermost) or re.search(r"Subtypes: \[(.*)\]", message)
    accepted = plain_types(single[1]) if single else plain_types(union[1]) if union else ""
    if values and accepted and not re.search(r"\b[a-z_]+\.\w|subclass spec", accepted):
        return f"{name}: got {values[0].strip()}; expected {accepted}"
    if values and (accepted or re.search(r"subclass|import path|No module|has no attribute", message)):
        null = ", or null" if accepted.endswith("null") else ""
        is_named = "class_path" in values[0] or "No module named" in innermost
        got = classes[-1] if classes and is_named else values[0].strip()
        return f"{name}: got {got}; expected {_class_names(name)}{null}"
    detail = plain_types(" ".join(line.strip() for line in message.splitlines()))
    return f"{name}: {detail}" if name and name not in detail else detail


def _unknown_option(name: str, option: str, path: str) -> str:
    cls = import_class(path)
    parser = ArgumentParser(exit_on_error=False)
    names = parser.add_class_arguments(cls, "at", fail_untyped=False) if cls is not None else []
    known = [each.removeprefix("at.") for each in names if each not in ("at.params", "at.optimizer", "at.last_epoch")]
    near = get_close_matches(option, known, n=1)
    last = meant_by(option).rpartition(".")[2]
    near = [last] if last in known else near
    hint = f"; did you mean {name}.{near[0]}?" if near else ""
    accepted = f" ({cls.__name__} accepts {', '.join(known)})" if cls is not None and known else ""
    return f"{name}.{option}: unknown{hint}{accepted}"


def _class_names(name: str) -> str:
    if name in _FACTORIES:
        return _FACTORIES[name]
    names: Iterable[str] = {"model.head": [*HEADS], "model.backbone": [*BACKBONES]}.get(name, [])
    return f"{', '.join(sorted(names))}, or the full path of a class" if names else "the name or full path of a class"


def plain_types(text: str) -> str:
    """Write Python's types as a config has them.

    Args:
        text: Their names, such as ``Optional[int]`` or ``<class 'float'>``, among other words.

    Returns:
        The text without what only a programmer reads.
    """
    text = re.sub(r"<class '(?:builtins\.)?([\w.]+)'>", r"\1", text)
    text = re.sub(r"(?:collections\.abc|typing)\.(?:Iterable|Sequence|List)\b", "list", text)
    choices = re.sub(r"(?:typing\.)?Literal\[([^\]]*)\]", lambda match: match.group(1).replace("'", ""), text)
    choices = choices.replace(", torch.Tensor", "")  # what a config cannot hold
    return choices.replace("NoneType", "null").replace("typing.", "")
