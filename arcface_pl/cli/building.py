"""Classes of a config: their settings parsed by jsonargparse, and each built alone, with one-line errors."""

import enum
import inspect
import json
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import lightning as L
import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from torch import nn

from arcface_pl.backbones import BACKBONES
from arcface_pl.cli import loss_settings
from arcface_pl.cli.command_line import Flags
from arcface_pl.cli.config import parse_yaml
from arcface_pl.cli.error_lines import ConstructorError, settings_errors
from arcface_pl.cli.layers import import_class, is_class, walk
from arcface_pl.cli.parser_errors import PARSER
from arcface_pl.cli.values import check_class_nodes, check_flag_numbers, check_numbers, check_values
from arcface_pl.data.protocol import fact
from arcface_pl.errors import SettingsError, expected
from arcface_pl.training.extra_losses import ExtraLoss


def class_path(cls: type) -> str:
    """Return the dotted name under which a config names ``cls``."""
    return f"{cls.__module__}.{cls.__qualname__}"


# Short names that jsonargparse cannot resolve by itself, since other classes have them too.
SHORT_NAMES: dict[str, Mapping[str, str]] = {
    "model.backbone": {name: class_path(cls) for name, cls in BACKBONES.items()},
    "model.lr_schedule": {"ReduceLROnPlateau": "lightning.pytorch.cli.ReduceLROnPlateau"},
}


def build_data(settings: dict[str, Any], flags: Flags, sizes: Mapping[str, int], seed: int | None = None) -> Any:
    """Build a data module for a trained network.

    Args:
        settings: Its class and arguments under ``data``.
        flags: Full name and text of the flags that come after them; only those of ``data`` are read.
        sizes: ``in_channels`` and ``image_size`` of the network, filled in if the class takes them.
        seed: That of the run, which draws the same validation and test images again; filled in likewise.

    Returns:
        The data module.

    Raises:
        SettingsError: If a setting is unknown, of the wrong type or out of range, or its images are of another size.
    """
    parser = LightningArgumentParser(**PARSER)
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True)
    config = parse_settings(parser, {"data": settings["data"]}, [flag for flag in flags if flag[0].startswith("data.")])
    for name, value in sizes.items():
        fill("data", config.data, name, value, "the checkpoint's network")
    if config.data.get("init_args.seed") is None:
        fill("data", config.data, "seed", seed, "the checkpoint's run")
    datamodule = build_class("data", L.LightningDataModule, config.data)
    for name, value in sizes.items():
        found = fact(datamodule, name, value)
        if found != value:
            fault = f"got images with {name} {found}; expected {value}, which the checkpoint's network takes"
            raise SettingsError(f"data: {fault}")
    return datamodule


def build_network(role: str, node: Mapping[str, Any], flags: Flags) -> nn.Module:
    """Build a backbone or head of any class.

    Args:
        role: "backbone" or "head".
        node: Its class and arguments.
        flags: Full name and text of the flags that come after them; only those of this role are read.

    Raises:
        SettingsError: If the class does not exist, or an argument is unknown, missing or of the wrong type.
    """
    key = f"model.{role}"
    parser = ArgumentParser(**PARSER)
    parser.add_subclass_arguments(nn.Module, key, fail_untyped=False, required=False)
    config = parse_settings(parser, {"model": {role: node}}, [flag for flag in flags if flag[0].startswith(key)])
    return build_class(key, nn.Module, config[key])


def parse_settings(parser: ArgumentParser, settings: dict[str, Any], flags: Flags) -> Namespace:
    """Parse settings and then flags, without defaults and without asking for what is required."""
    settings = deepcopy(settings)
    check_class_nodes(settings)
    for key, names in SHORT_NAMES.items():
        parent, _, last = key.rpartition(".")
        node: Any = settings.get(parent)
        node = node.get("init_args") if is_class(node) else node
        for place, name in ((node, last), ((node or {}).get(last), "class_path")):
            if isinstance(place, dict) and isinstance(place.get(name), str):
                place[name] = names.get(place[name], place[name])
    node = settings.get("model")
    node = (node.get("init_args") or {}) if is_class(node) else node
    if isinstance(node, dict) and node.get("extra_losses"):
        node["extra_losses"] = loss_settings.full_entries(node["extra_losses"])
    flags = [_full_loss(*flag) if flag[0].startswith(loss_settings.NAME) else flag for flag in flags]
    words = [f"--{name}={SHORT_NAMES.get(name, {}).get(text, text)}" for name, text in flags]
    parser.validate = lambda *args, **kwargs: None  # sizes are still missing
    try:
        with settings_errors():
            config = parser.parse_object(settings, defaults=False)
            check_numbers("", settings, config)
            config = parser.parse_args(words, namespace=config, defaults=False)
            check_flag_numbers(flags, config)
            return config
    finally:
        del parser.validate


def _full_loss(name: str, text: str) -> tuple[str, str]:
    """Write a flag of ``model.extra_losses`` with full names of classes."""
    last = name.removeprefix(loss_settings.NAME).lstrip("+")
    with settings_errors(name):
        value = parse_yaml(text)
    if not last:
        return name, json.dumps(loss_settings.full_entries(value))
    if last in (".loss", ".miner"):
        value = loss_settings.full_name(last[1:], value)
        return name, value if isinstance(value, str) else json.dumps(value)
    return name, text


def build_class(key: str, base: type, node: Namespace | None) -> Any:
    """Build the class at ``key``, whose arguments may be incomplete, and nothing else."""
    if node is None:
        raise SettingsError(expected(key, None, "a class"))
    parser = ArgumentParser(**PARSER)
    parser.add_subclass_arguments(base, key, fail_untyped=False, required=False)
    check_values(key, node)
    place = Namespace()
    place[key] = node
    with settings_errors(key):
        checked = parser.parse_object(place, defaults=False)
        return parser.instantiate(checked, instantiators=[(partial(make, place), object, True)])[key]


def make(config: Namespace, cls: type, /, *args: Any, **kwargs: Any) -> Any:
    """Call a class's constructor; what it raises names the setting."""
    try:
        defaults = {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}
        with settings_errors(_place_of(config, cls), kwargs, defaults):
            return cls(*args, **kwargs)
    except SettingsError as error:
        raise ConstructorError from error
    except Exception as error:
        if not issubclass(cls, Logger):
            raise
        # Clients of servers raise types of their own, over a missing file or a login
        remedy = " ".join(str(error).split())
        refused = SettingsError(expected("trainer.logger", cls.__name__, "a logger that can be made here", remedy))
        raise ConstructorError from refused


def _place_of(config: Namespace, cls: type) -> str:
    """Return the full name under which ``config`` has ``cls``, without init_args."""
    for key, node in walk(config, Namespace):
        if isinstance(node, Namespace) and import_class(node.get("class_path")) is cls:
            return key
    if cls is ExtraLoss:
        return loss_settings.NAME
    return "model" if issubclass(cls, L.LightningModule) else cls.__name__


def without_objects(node: Any) -> Any:
    """Replace defaults that jsonargparse cannot write to a config: enums and devices."""
    if isinstance(node, Namespace):
        for name, value in vars(node).items():
            node[name] = without_objects(value)
    elif isinstance(node, list):
        return [without_objects(item) for item in node]
    if isinstance(node, enum.Enum):
        return str(node.value) if isinstance(node, str) else node.name
    return str(node) if isinstance(node, torch.device) else node


def parameter_of(node: Namespace, name: str) -> inspect.Parameter | None:
    """Return that parameter of the class at ``node``, if it has one."""
    for cls in getattr(import_class(node.class_path), "__mro__", ()):
        parameters = inspect.signature(cls).parameters
        if name in parameters or not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            return parameters.get(name)
    return None


def fill(key: str, node: Namespace, name: str, value: Any, origin: str) -> None:
    """Set an argument that follows from elsewhere; refuse another value."""
    if value is None or parameter_of(node, name) is None:
        return
    given = node.get(f"init_args.{name}")
    if given is None:
        node[f"init_args.{name}"] = value
    elif given != value:
        remedy = "Leave it out; a run's config.yaml has it too, which a resumed run keeps"
        raise SettingsError(expected(f"{key}.{name}", given, f"{value}, that of {origin}", remedy))
