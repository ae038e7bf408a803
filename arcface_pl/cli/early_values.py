"""Values of plain types that the parser would refuse, found before torch and lightning are imported."""

import argparse
import re
from functools import reduce
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from arcface_pl.cli.command_line import Request
from arcface_pl.cli.config import BASE_CONFIG, read_config
from arcface_pl.cli.declared_types import declared_type
from arcface_pl.cli.layers import MODULE, each_setting, is_class, merge
from arcface_pl.cli.parser_errors import PARSER, explain
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


def check_early(request: Request) -> None:
    """Refuse what the whole parser certainly would, in its words; it judges the rest.

    Args:
        request: A command line without a checkpoint, whose settings would come first.

    Raises:
        SettingsError: If a value is not of the plain type that its setting declares, or the Trainer has no use for it.
    """
    base = read_config(BASE_CONFIG)
    settings, flags = request.over(base)
    check_class_nodes(settings)
    defaults = dict(each_setting(base))
    typed = [(name, value) for name, value in each_setting(settings) if name not in defaults or value != defaults[name]]
    types = {name: kind for name, value in [*typed, *flags] if (kind := _type_of(settings, name)) is not None}
    if settings["model"].get("init_from") or "model.init_from" in dict(flags):  # may bring a backbone of another class
        types = {name: kind for name, kind in types.items() if not name.startswith("model.backbone.")}
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
    others = re.search(_OTHER_PACKAGES, " ".join(str(value) for _, value in [*typed, *flags]))
    if not others and re.fullmatch("[a-z]+", str(accelerator)):  # not the name of a class
        check_accelerator_name(accelerator)


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
    *way, last = name.split(".")
    node: Any = settings
    for part in way:
        node = (node.get("init_args") or {}) if is_class(node) else node
        node = node.get(part) if isinstance(node, dict) else None
    place = ".".join(way)
    path = node["class_path"] if is_class(node) else {"trainer": _TRAINER, "model": MODULE}.get(place, "")
    path = path if "." in path else f"{_ROOMS.get(place, '')}.{path}"
    return declared_type(path, last)


def _nested(name: str, value: Any) -> dict[str, Any]:
    first, _, rest = name.partition(".")
    return {first: _nested(rest, value) if rest else value}
