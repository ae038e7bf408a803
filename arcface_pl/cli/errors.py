"""Turning what the libraries raise over a user's mistake into one clear line."""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.exceptions import MisconfigurationException

from arcface_pl.cli.config import SettingsError

__all__ = ["settings_errors"]

# What building the parser, the modules and the Trainer raises over a setting.
_RAISED_OVER_SETTINGS = (
    argparse.ArgumentError,
    MisconfigurationException,
    ValueError,
    TypeError,
    ImportError,
    RuntimeError,
)


@contextmanager
def settings_errors(key: str = "") -> Iterator[None]:
    """Turn whatever the body raises over a setting into a `SettingsError` of one line.

    Args:
        key: Full name of the settings the body is about, to be named where the error does not.
    """
    try:
        yield
    except SettingsError:
        raise
    except _RAISED_OVER_SETTINGS as error:
        message = _explain(str(error))
        if key and not message.startswith(key.split(".")[0]):
            # "margin must be ..." becomes "model.head.margin must be ...", anything else "model.head: ..."
            message = f"{key}.{message}" if re.match(r"[a-z_]+(:| must )", message) else f"{key}: {message}"
        raise SettingsError(message) from error


def _explain(message: str) -> str:
    """Condense a parser's nested report to "full.key: got value, but it accepts ..."."""
    keys = re.findall(r'(?:Parser key|Key) "([^"]+)"', message)
    name = ".".join(part for key in keys for part in key.split(".") if part != "init_args")
    if union := re.search(r"Subtypes: \[(.*?)\]\n.*Given value: (.*)", message, re.DOTALL):
        return f"{name}: got {union.group(2).strip()}, but it accepts {_plain_types(union.group(1))}"
    if single := re.search(r"Expected an? (.*)\. Got value: (.*)", message):
        return f"{name}: got {single.group(2).strip()}, but it accepts {_plain_types(single.group(1))}"
    detail = _plain_types(" ".join(line.strip() for line in message.splitlines()))
    return f"{name}: {detail}" if name and name not in detail else detail


def _plain_types(text: str) -> str:
    text = re.sub(r"<class '(?:builtins\.)?([\w.]+)'>", r"\1", text)
    choices = re.sub(r"(?:typing\.)?Literal\[([^\]]*)\]", lambda match: match.group(1).replace("'", ""), text)
    return choices.replace("NoneType", "null").replace("typing.", "")
