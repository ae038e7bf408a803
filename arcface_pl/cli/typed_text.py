"""What was typed for a setting, which its error shows: ``~``, where YAML makes None of it."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from arcface_pl.cli.command_line import parse_command_line
from arcface_pl.cli.config import compose_yaml, config_text, parse_yaml
from arcface_pl.cli.help import SUBCOMMANDS

_SECTIONS = ("--data", "--model", "--trainer", "--seed_everything")


def with_typed_text(message: str, command: str, args: Sequence[str]) -> str:
    """Replace the value in "full.name: got VALUE; ..." by the text that was typed and means this value.

    Args:
        message: The message.
        command: The command.
        args: What follows it.
    """
    said = re.match(r"([\w.]+): got (.+?)(?=; | \()", message)
    if said is None:
        return message
    for text in _typed(said[1], command, args):
        if said[2] in _forms(text):
            return f"{said[1]}: got {text}{message[said.end() :]}"
    return message


def _typed(name: str, command: str, args: Sequence[str]) -> Iterator[str]:
    """Yield the texts of a setting: of flags, then of config files, the last ones first."""
    if command not in SUBCOMMANDS or (args and not args[0].startswith("-")):  # a tool, whose own flags are others
        args = [word for flag in _flags(args) for word in flag]
        command = "test"
    try:
        request = parse_command_line(command, args)
        for flag, text in reversed(request.flags):
            place = flag.rstrip("+").replace(".init_args", "")
            if place == name:
                yield text
            if f"{name}.".startswith(f"{place}."):
                yield from _within(text, name[len(place) + 1 :])
        for path in reversed(request.configs):
            yield from _within(config_text(path), name)
    except (ValueError, OSError):  # which is what the message is about
        return


def _flags(args: Sequence[str]) -> Iterator[list[str]]:
    """Yield the flags of settings among others, each with its value."""
    for word, following in zip(args, [*args[1:], "--"], strict=True):
        if word.partition("=")[0].startswith(_SECTIONS):
            yield [word] if "=" in word or following.startswith("--") else [word, following]


def _within(text: str, name: str) -> Iterator[str]:
    """Yield what a YAML text has for a setting, as it stands there."""
    try:
        node = compose_yaml(text)
    except ValueError:
        return
    for found in _descend(node, name.split(".") if name else []):
        yield text[found.start_mark.index : found.end_mark.index].strip()


def _descend(node: Any, parts: Sequence[str]) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _descend(item, parts)
    if not parts:
        yield node
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == parts[0]:
                yield from _descend(value, parts[1:])
            elif key.value in ("init_args", *SUBCOMMANDS):
                yield from _descend(value, parts)


def _forms(text: str) -> set[str]:
    """Return how messages show what YAML, of either version, makes of a text; nothing for what stays text."""
    forms: set[str] = set()
    for read in (parse_yaml, yaml.safe_load):
        try:
            value = read(text)
        except (ValueError, yaml.YAMLError, RecursionError):
            continue
        if isinstance(value, list):
            forms |= {str(value), str(tuple(value))}
            if all(isinstance(each, int | float) for each in value):
                forms.add(str(tuple(map(float, value))))
        elif not isinstance(value, str):
            forms |= {str(value), str(value).lower(), "null" if value is None else str(value)}
        if isinstance(value, int) and not isinstance(value, bool):
            forms.add(str(float(value)))
    return forms
