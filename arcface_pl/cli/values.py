"""Ranges that neither jsonargparse nor the Trainer checks before a run."""

import inspect
import math
import types
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import Namespace

from arcface_pl.cli.config import import_class, walk
from arcface_pl.cli.error_lines import plain_types
from arcface_pl.errors import SettingsError, expected

LARGEST_SEED = 2**32 - 1


def check_values(place: str, settings: Any) -> None:
    """Refuse null for an argument that must have a value, and numbers without end.

    Args:
        place: Full name of the place.
        settings: Parsed settings.

    Raises:
        SettingsError: Names the setting, its value and what is accepted.
    """
    for key, node in walk(settings, Namespace, place):
        if isinstance(node, float) and not math.isfinite(node):
            raise SettingsError(expected(key, node, "a finite number"))
        cls = import_class(node.get("class_path")) if isinstance(node, Namespace) else None
        if cls is not None:
            _check_nulls(key, cls, node.get("init_args") or Namespace())


def _check_nulls(key: str, cls: type, arguments: Namespace) -> None:
    try:
        hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):  # a type that is imported for type checkers only
        return
    parameters = inspect.signature(cls).parameters
    for name, value in vars(arguments).items():
        hint = hints.get(name, Any)
        if value is None and name in parameters and parameters[name].default is not None and not _takes_null(hint):
            described = plain_types(hint.__name__ if get_origin(hint) is None else str(hint))
            raise SettingsError(f"{key}.{name}: got null; expected {described}")


def _takes_null(hint: Any) -> bool:
    return hint in (Any, None, types.NoneType) or any(map(_takes_null, get_args(hint)))


def check_seed(value: Any) -> None:
    """Refuse a ``seed_everything`` that does not decide the run.

    Args:
        value: The parsed value.

    Raises:
        SettingsError: If it is not a whole number from 0 to 4294967295.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_SEED:
        raise SettingsError(expected("seed_everything", value, f"a whole number from 0 to {LARGEST_SEED}"))
