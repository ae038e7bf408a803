"""Text to plain values: YAML 1.2's scalars, no key twice, no classes, and no more of it than a config ever needs."""

import re
from pathlib import Path
from typing import Any

import yaml

from arcface_pl.errors import SettingsError

__all__ = ["parse_yaml", "read_yaml"]

MAX_CHARACTERS = 1 << 20
MAX_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars (1e-3 is a number, 12:30 and no are text), and no key twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        line = f"line {key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise SettingsError(f"{line}: a list or mapping stands where a setting's name belongs")
        if key_node.value in seen:
            raise SettingsError(f"{line}: the key {key_node.value!r} stands there twice")
        seen.add(key_node.value)
    return loader.construct_mapping(node, deep=True)


def _underscored(loader: _Loader, node: yaml.ScalarNode) -> None:
    raise SettingsError(f"got {node.value!r}: write a number without underscores")


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9]+$", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("!underscored", r"^[-+]?[0-9]*\.?[0-9]*_[0-9_.]*(?:[eE][-+]?[0-9_]+)?$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Loader.add_constructor("!underscored", _underscored)


def parse_yaml(text: str, source: str) -> Any:
    """Read YAML text.

    Args:
        text: The text.
        source: Where it stands, for the message.

    Returns:
        Numbers, strings, booleans and None, in lists and dictionaries.

    Raises:
        SettingsError: If it is no YAML, repeats a key, names a class to make, or grows without end.
    """
    try:
        # _Loader derives from the safe one, which makes plain values only
        content = yaml.load(text, _Loader)
    except SettingsError as error:
        raise SettingsError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise SettingsError(f"{source}: not valid YAML ({' '.join(str(error).split())})") from None
    _check_size(content, source)
    return content


def _check_size(content: Any, source: str) -> None:
    """Refuse what aliases multiply beyond use, or wind into themselves: few lines of text can stand for billions."""
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > MAX_VALUES:
            raise SettingsError(f"{source}: holds more than {MAX_VALUES:,} values, aliases counted in full")
        if isinstance(value, dict | list):
            waiting.extend(value.values() if isinstance(value, dict) else value)


def read_yaml(path: str | Path, flag: str) -> Any:
    """Read a YAML file.

    Args:
        path: The file.
        flag: The flag that named it, for the message.

    Returns:
        As `parse_yaml`.

    Raises:
        SettingsError: If it cannot be read, is longer than any config, or is not YAML.
    """
    try:
        with Path(path).open(encoding="utf-8") as stream:
            text = stream.read(MAX_CHARACTERS + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(f"{flag} {path}: cannot be read ({reason})") from None
    if len(text) > MAX_CHARACTERS:
        raise SettingsError(f"{flag} {path}: has more than {MAX_CHARACTERS:,} characters, which no config needs")
    return parse_yaml(text, str(path))
