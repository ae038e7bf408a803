"""Values of plain types that the parser would refuse, found before torch and lightning are imported."""

import argparse
import re
import sys
from functools import reduce
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from arcface_pl.cli.command_line import Flags
from arcface_pl.cli.config import BASE_CONFIG, read_config
from arcface_pl.cli.declared_types import declared_type, is_defined, parameters
from arcface_pl.cli.layers import CLASS_KEYS, MODULE, each_setting, is_class, merge
from arcface_pl.cli.parser_errors import PARSER, class_names, explain, unknown_option
from arcface_pl.cli.values import (
    check_accelerator_name,
    check_class_nodes,
    check_flag_numbers,
    check_numbers,
    check_seed,
    check_trainer_values,
    read_devices,
)
from arcface_pl.errors import SettingsError

_TRAINER = "lightning.pytorch.trainer.trainer.Trainer"
_OTHER_PACKAGES = r"(?<![\w.])(?!arcface_pl|lightning|torch)[A-Za-z_]\w*\.[A-Za-z_]\w*"  # which may bring accelerators
# Where classes are that are named without their module
_ROOMS = {
    "data": "arcface_pl.data",
    "model.backbone": "arcface_pl.backbones",
    "model.head": "arcface_pl.heads",
    "model.optimizer": "torch.optim",
    "model.lr_schedule": "arcface_pl.training.schedules",
    "trainer.logger": "arcface_pl.callbacks",
}
# Of these places, all there are unless another package, or the program that calls this one, brings its own
_ALL_ROOMS = {
    "model.head": ["arcface_pl.heads"],
    "model.optimizer": ["torch.optim"],
    "model.lr_schedule": ["arcface_pl.training.schedules", "torch.optim.lr_scheduler"],
}


def check_early(settings: dict[str, Any], flags: Flags) -> None:
    """Refuse what the whole parser certainly would, in its words; it judges the rest.

    Args:
        settings: What `Request.over` returned for base.yaml, without a checkpoint, whose settings would come first.
        flags: The same.

    Raises:
        SettingsError: If a value is not of the plain type that its setting declares, or the Trainer has no use for it.
    """
    check_class_nodes(settings)
    defaults = dict(each_setting(read_config(BASE_CONFIG)))
    typed = [(name, value) for name, value in each_setting(settings) if name not in defaults or value != defaults[name]]
    others = re.search(_OTHER_PACKAGES, " ".join(str(value) for _, value in [*typed, *flags]))
    judged = dict([*typed, *flags])
    if settings["model"].get("init_from") or "model.init_from" in judged:  # may bring a backbone of another class
        judged = {name: value for name, value in judged.items() if not name.startswith("model.backbone.")}
    for name, value in judged.items():
        _check_argument(settings, name)
        if not others:
            _check_class_name(name, str(value))
    types = {name: kind for name in judged if (kind := _type_of(settings, name)) is not None}
    parser = ArgumentParser(**PARSER)
    for name, kind in types.items():
        parser.add_argument(f"--{name}", type=kind)
    given = [(name, value) for name, value in typed if _is_judged(name, value, types)]
    words = [(name, text) for name, text in flags if _is_judged(name, text, types)]
    try:
        nested: dict[str, Any] = reduce(merge, [_nested(*each) for each in given], {})
        config = parser.parse_object(nested, defaults=False)
        check_numbers("", nested, config)
        config = parser.parse_args([f"--{name}={text}" for name, text in words], namespace=config, defaults=False)
        check_flag_numbers(words, config)
    except argparse.ArgumentError as error:
        raise SettingsError(explain(str(error))) from error
    if "seed_everything" in config:
        check_seed(config.seed_everything)
    trainer = config.get("trainer", Namespace())
    if "devices" in trainer:
        trainer["devices"] = read_devices(trainer.devices)
    check_trainer_values({**settings["trainer"], **vars(trainer)})
    accelerator = dict(flags).get("trainer.accelerator", settings["trainer"].get("accelerator"))
    if not others and re.fullmatch("[a-z]+", str(accelerator)):  # not the name of a class
        check_accelerator_name(accelerator)


def _check_class_name(place: str, name: str) -> None:
    is_name = re.fullmatch("[A-Z][A-Za-z0-9]*", name) and name not in ("None", "Null", "NULL")
    if place not in _ALL_ROOMS or not is_name:
        return
    is_imported = any(name in getattr(module, "__dict__", ()) for module in [*sys.modules.values()])
    if not is_imported and not any(is_defined(f"{room}.{name}") for room in _ALL_ROOMS[place]):
        raise SettingsError(f"{place}: got {name}; expected {class_names(place)}")


def _check_argument(settings: dict[str, Any], name: str) -> None:
    place, _, argument = name.rstrip("+").rpartition(".")
    # A schedule's may be those of its entry in Lightning's configuration, such as monitor
    if place in _ROOMS and place != "model.lr_schedule" and argument not in CLASS_KEYS:
        path = _class_at(settings, place)
        if (known := parameters(path)) and argument not in known:
            raise SettingsError(unknown_option(place, argument, path.rpartition(".")[2], known))


def _is_judged(name: str, value: Any, types: dict[str, Any]) -> bool:
    """Return whether the whole parser, too, reads a value as one of the declared type."""
    if name not in types or (name, value) == ("trainer.precision", "auto"):  # which this package resolves
        return False
    if name.count(".") > 1 or name.startswith("data."):  # arguments of a class may be null to it, or a class again
        return not str(value).startswith("{") and str(value) not in ("~", "null", "Null", "NULL", "None")
    return True


def _type_of(settings: dict[str, Any], name: str) -> Any:
    """Return the type of a setting; None if it is not plain, or its class not known."""
    if name == "seed_everything":
        return bool | int  # as LightningCLI has it
    place, _, last = name.rpartition(".")
    return declared_type(_class_at(settings, place), last)


def _class_at(settings: dict[str, Any], place: str) -> str:
    """Return the full path of the class that a setting chooses; without a module where that is not known."""
    node: Any = settings
    for part in place.split("."):
        node = (node.get("init_args") or {}) if is_class(node) else node
        node = node.get(part) if isinstance(node, dict) else None
    path = node["class_path"] if is_class(node) else {"trainer": _TRAINER, "model": MODULE}.get(place, "")
    return path if "." in path else f"{_ROOMS.get(place, '')}.{path}"


def _nested(name: str, value: Any) -> dict[str, Any]:
    first, _, rest = name.partition(".")
    return {first: _nested(rest, value) if rest else value}
