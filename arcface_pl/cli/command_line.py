"""A command line, sorted into config files, flags and switches; jsonargparse reads the flags."""

import json
import os
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from arcface_pl.cli.aliases import meant_by
from arcface_pl.cli.config import (
    ALIASES,
    BASE_CONFIG,
    SECTIONS,
    YAML_FILES,
    parse_yaml,
    read_config,
    read_yaml,
    unknown,
)
from arcface_pl.cli.layers import each_setting, is_class, merge, same_class, section_of
from arcface_pl.errors import SettingsError, expected

Flags = Sequence[tuple[str, str]]

SWITCHES = ("print_config", "help", "help_all", "traceback", "env")
ENV_PREFIX = "PL_"
LISTS = ("trainer.callbacks", "trainer.logger", "model.extra_losses")


@dataclass
class Request:
    """A sorted command line.

    Attributes:
        command: The subcommand.
        configs: Paths of config files, in order.
        flags: Full name and text of each setting, in order.
        ckpt_path: The checkpoint that was asked for.
        switches: print_config, help_all, ... with their text.
        helps: Arguments of jsonargparse's own help on classes, such as "--model.head.help=CosFaceHead".
    """

    command: str
    configs: list[str] = field(default_factory=list)
    flags: list[tuple[str, str]] = field(default_factory=list)
    ckpt_path: str | None = None
    switches: dict[str, str] = field(default_factory=dict)
    helps: list[str] = field(default_factory=list)

    @property
    def names_data(self) -> bool:
        """Whether a flag or a config file chooses the data module's class."""
        sections = [read_config(path, self.command).get("data") for path in self.configs]
        return any(name == "data" for name, _ in self.flags) or any("class_path" in (each or ()) for each in sections)

    @property
    def names_dataset(self) -> bool:
        """Whether a flag or a config file says what data to take: a class, or a data set of the default class."""
        return self.names_data or any(name == "data.dataset" for name, _ in self.flags)

    def over(self, base: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Merge the config files over ``base``.

        Flags that hold a whole section (``--data NAME``, ``--trainer trainer.yaml``) are merged too. Where another flag
        chooses a class, the arguments of the class it replaces are dropped.

        Args:
            base: Settings to begin with.

        Returns:
            The merged settings, and the remaining flags in the order in which they are to be parsed.
        """
        settings: dict[str, Any] = deepcopy(base)
        flags: list[tuple[str, str]] = []
        for path in self.configs:
            layer = read_config(path, self.command)
            self.ckpt_path = self.ckpt_path or layer.pop("ckpt_path", None)
            layer.pop("ckpt_path", None)
            settings = merge(settings, layer)
        for name, text in self.flags:
            if name in ("trainer", "model", "data"):
                settings = merge(settings, {name: _value(name, text)})
            else:
                flags.append((name, text))
        for name in ("trainer", "model"):
            if not isinstance(settings[name], dict):
                raise SettingsError(f"{name}: got {settings[name]!r}; expected a mapping of settings")
        parsed: list[tuple[str, str]] = []
        # A class comes before its arguments, in whichever order they were typed; callbacks and loggers are lists
        for name, text in sorted(flags, key=lambda flag: 9 if flag[0].startswith(LISTS) else flag[0].count(".")):
            if name.rstrip("+") == "trainer.callbacks":
                value = _value(name, text)
                if not value and not name.endswith("+"):
                    settings["trainer"]["callbacks"] = []
                parsed += _callback_flags(settings, value or [])
            else:
                _forget_replaced(settings, name, text)
                parsed.append((name, text))
        return settings, parsed


def last_value(settings: dict[str, Any], flags: Flags, name: str) -> Any:
    """Return the value of a setting before parsing: of the last flag, else of the config files.

    Args:
        settings: What `Request.over` returned.
        flags: The same.
        name: Full name, of a section's setting.
    """
    typed = [text for flag, text in flags if flag == name]
    section, _, last = name.partition(".")
    return typed[-1] if typed else section_of(settings, section).get(last)


def _value(name: str, text: str) -> Any:
    """Return the value of a flag as YAML; the content of the file if it names one."""
    if text.endswith(YAML_FILES):
        return read_yaml(text, f"--{name}")
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise SettingsError(f"{name}: got {text!r}; expected valid YAML ({error})") from None


def _callback_flags(settings: dict[str, Any], value: Any) -> list[tuple[str, str]]:
    """Return flags that append callbacks; one that is there moves to the end, so that what follows modifies it."""
    present = settings["trainer"].get("callbacks") or []
    flags = []
    for entry in merge([], value, "trainer.callbacks"):
        found = [old for old in present if same_class(old["class_path"], entry["class_path"])]
        present = [old for old in present if old not in found]
        flags.append(("trainer.callbacks+", json.dumps(merge(found[0], entry) if found else entry)))
    settings["trainer"]["callbacks"] = present
    return flags


def _forget_replaced(settings: dict[str, Any], name: str, text: str) -> None:
    """Drop the arguments of the class at ``name`` if the flag chooses another one."""
    *way, last = name.rstrip("+").split(".")
    node: Any = settings
    for part in way:
        node = node.get("init_args") or {} if is_class(node) and part != "init_args" else node
        node = node.get(part) if isinstance(node, dict) else None
    node = node.get("init_args") if is_class(node) else node
    if not isinstance(node, dict) or not is_class(node.get(last)) or name.endswith("+"):
        return
    chosen = _value(name, text)
    chosen = chosen.get("class_path") if isinstance(chosen, dict) else chosen
    if isinstance(chosen, str) and not same_class(node[last]["class_path"], chosen):
        node[last] = {"class_path": chosen}


def parse_command_line(command: str, args: Sequence[str]) -> Request:
    """Sort a command line; values are not checked yet.

    Args:
        command: The subcommand.
        args: What follows it.

    Returns:
        The sorted command line.

    Raises:
        SettingsError: If a flag is unknown or has no value, or a word stands alone.
    """
    request, words = Request(command), list(args)
    while words:
        word = words.pop(0)
        word = "--config" + word[2:] if re.match("-c(=|$)", word) else {"-h": "--help"}.get(word, word)
        if not word.startswith("--"):
            raise SettingsError(f"{word!r}: a value without a flag; flags look like --max_epochs 3")
        name, equals, value = word[2:].partition("=")
        if name in SWITCHES:
            request.switches[name] = value
            continue
        name = _full_name(name)
        follows = bool(words) and not words[0].startswith("--")
        if name.endswith(".help"):
            chosen = value if equals else words.pop(0) if follows else ""
            request.helps.append(f"--{name}{'=' if chosen else ''}{chosen}")
            continue
        if not equals:
            value = words.pop(0) if follows else "true" if name == "data.allow_inexact_resume" else ""
        if not value.strip():
            raise SettingsError(f"{name}: needs a value (null for none)")
        if re.fullmatch(r"[-+]?[0-9.]*_[0-9_.]*(?:[eE][-+]?[0-9_]+)?", value):
            raise SettingsError(f"{name}: got {value!r}; expected a number without underscores")
        if name == "config":
            request.configs.append(value)
        elif name == "ckpt_path":
            request.ckpt_path = value
        else:
            request.flags.append((name.removesuffix(".class_path").replace(".init_args.", "."), value))
    if (switch := request.switches.pop("env", "false")) not in ("", "true", "false"):
        raise SettingsError(expected("--env", switch, "true, false, or no value"))
    return request if switch == "false" else _over_environment(request)


def _over_environment(request: Request) -> Request:
    """Add the environment variables that stand for flags, below what was typed and the config files that were named.

    jsonargparse has this order, too. The variable of --trainer.max_epochs is PL_TRAINER__MAX_EPOCHS; with the
    subcommand, PL_FIT__TRAINER__MAX_EPOCHS, it counts for that alone.
    """
    names = {key: key.removeprefix(ENV_PREFIX).lower().replace("__", ".") for key in sorted(os.environ)}
    names = {key: name.removeprefix(f"{request.command}.") for key, name in names.items() if key.startswith(ENV_PREFIX)}
    known = (*SECTIONS, "config", "ckpt_path")
    words = [f"--{name}={os.environ[key]}" for key, name in names.items() if name.split(".")[0] in known]
    below = parse_command_line(request.command, words)
    layers = [read_config(path, request.command) for path in request.configs]
    typed = {name for layer in layers for name, _ in each_setting(layer)}
    flags = [flag for flag in below.flags if flag[0] not in typed]
    ckpt_path = request.ckpt_path or below.ckpt_path
    return replace(request, configs=below.configs + request.configs, flags=flags + request.flags, ckpt_path=ckpt_path)


def _full_name(name: str) -> str:
    trainer_arguments = read_config(BASE_CONFIG)["trainer"]
    root, dot, rest = name.partition(".")
    if root.rstrip("+") in trainer_arguments:
        return f"trainer.{name}"
    if root in ALIASES:
        return f"model.{ALIASES[root]}{dot}{rest}"
    if name == "allow_inexact_resume":
        return f"data.{name}"
    if root in SECTIONS or name in ("config", "ckpt_path"):
        return name
    if meant := meant_by(name):
        raise SettingsError(f"--{name}: unknown; did you mean --{meant}?")
    known = [*SECTIONS, "config", "ckpt_path", "allow_inexact_resume", *SWITCHES, *trainer_arguments]
    message = unknown(f"--{name}", [f"--{each}" for each in known])
    raise SettingsError(message if "did you" in message else f"{message}; --help_all lists every setting")
