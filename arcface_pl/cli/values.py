"""Ranges that neither jsonargparse nor the Trainer checks before a run; imports no torch."""

import inspect
import math
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import Namespace

from arcface_pl.cli.config import parse_yaml
from arcface_pl.cli.layers import CLASS_KEYS, import_class, is_class, walk
from arcface_pl.cli.parser_errors import plain_types
from arcface_pl.errors import SettingsError, expected

LARGEST_SEED = 2**32 - 1
LARGEST = 2**31 - 1

# The Trainer accepts any number here and fails, or does nothing, in the middle of the run.
_WHOLE = {
    "num_nodes": (1, "a whole number of at least 1"),
    "max_epochs": (-1, "a whole number of at least 1, or -1 for no limit"),
    "min_epochs": (0, "a whole number of at least 0, or null"),
    "max_steps": (-1, "a whole number of at least 1, or -1 for no limit"),
    "min_steps": (0, "a whole number of at least 0, or null"),
    "check_val_every_n_epoch": (1, "a whole number of at least 1, or null"),
    "num_sanity_val_steps": (-1, "a whole number of at least 0, -1 for all, or null"),
    "log_every_n_steps": (0, "a whole number of at least 0, or null"),
    "accumulate_grad_batches": (1, "a whole number of at least 1"),
    "reload_dataloaders_every_n_epochs": (0, "a whole number of at least 0"),
    "fast_dev_run": (0, "true, false or a number of batches"),
    "devices": (-1, "1 to 4096, a list of them, -1 or auto"),
}
_NOT_ZERO = ("max_epochs", "max_steps", "devices")
_LARGEST = {"devices": 4096}  # of the others, Lightning's: it counts steps and batches in 32 bits
# Shares or numbers of batches, and whether 0 is accepted
_SHARES = {
    "limit_train_batches": False,
    "limit_val_batches": True,
    "limit_test_batches": True,
    "limit_predict_batches": True,
    "overfit_batches": True,
    "val_check_interval": False,
}
_HEXADECIMAL = "[-+]?0x[0-9a-fA-F]+"
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")


def check_class_nodes(settings: dict[str, Any]) -> None:
    """Refuse what stands next to a class_path but is not init_args, and init_args that are not a mapping."""
    for key, node in walk(settings):
        if not is_class(node):
            continue
        if foreign := [name for name in node if name not in CLASS_KEYS]:
            raise SettingsError(f"{key}.{foreign[0]}: unknown next to class_path; arguments belong under init_args")
        for part in ("init_args", "dict_kwargs"):
            if not isinstance(node.get(part) or {}, dict):
                raise SettingsError(expected(f"{key}.{part}", node[part], "a mapping of settings"))


def check_numbers(name: str, given: Any, taken: Any) -> None:
    """Refuse what jsonargparse reads as another number than a config file does: 12:30 as 750, +010 as 8.

    Args:
        name: Full name of the setting, or "" of all.
        given: Its value as plain values.
        taken: What the parser made of it.

    Raises:
        SettingsError: Names the setting and the text.
    """
    if isinstance(given, Mapping):
        for key, value in given.items() if isinstance(taken, Mapping | Namespace) else ():
            place = name if key == "init_args" else f"{name}.{key}".removeprefix(".")
            check_numbers(place, value, taken.get(key))
    elif isinstance(given, list) and isinstance(taken, list | tuple):
        for each, other in zip(given, taken, strict=False):
            check_numbers(name, each, other)
    elif isinstance(taken, int | float) and not isinstance(taken, bool):
        read = parse_yaml(given) if isinstance(given, str) else given
        if read not in (taken, str(taken)) and taken == taken and not re.fullmatch(_HEXADECIMAL, str(given)):
            raise SettingsError(expected(name, given, "a decimal number"))


def check_flag_numbers(flags: Iterable[tuple[str, str]], config: Namespace) -> None:
    """Do the same for flags, given by full name and text; of one that is repeated, the last counts."""
    for name, text in dict(flags).items():
        node: Any = config
        for part in name.rstrip("+").split("."):
            node = node[-1] if isinstance(node, list) and node else node  # of callbacks, the one that was typed last
            node = node.get("init_args") if isinstance(node, Namespace) and "class_path" in node else node
            node = node.get(part) if isinstance(node, Namespace) else None
        check_numbers(name, parse_yaml(text) if isinstance(node, list | tuple) else text, node)


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


def read_devices(devices: Any) -> Any:
    """Return the Trainer's ``devices``, of which the parser takes any text for a list such as "0,1"; a number as one.

    Raises:
        SettingsError: If the text is no such list.
    """
    if not isinstance(devices, str):
        return devices
    if not re.fullmatch(r"auto|-?[0-9]+|( *[0-9]+ *,?)+", devices):
        raise SettingsError(expected("trainer.devices", devices, _WHOLE["devices"][1]))
    return int(devices) if re.fullmatch(r"-?[0-9]+", devices) else devices


def check_accelerator_name(name: Any, registered: Iterable[str] = ()) -> None:
    """Refuse the name of an accelerator that Lightning does not have.

    Args:
        name: Its name; another value is judged elsewhere.
        registered: Names that other packages may have added.

    Raises:
        SettingsError: If no accelerator has that name.
    """
    known = dict.fromkeys((*ACCELERATORS, *registered))
    if isinstance(name, str) and name not in known:
        raise SettingsError(expected("trainer.accelerator", name, f"one of {', '.join(known)}"))


def check_trainer_values(trainer: Mapping[str, Any] | Namespace) -> None:
    """Refuse numbers that the Trainer would fail on in the middle of the run.

    Args:
        trainer: The Trainer's settings.

    Raises:
        SettingsError: Names the setting, its value and what is accepted.
    """
    if "://" in str(root := trainer.get("default_root_dir")):
        raise SettingsError(expected("trainer.default_root_dir", root, "a folder, not a URL"))
    for name, (low, accepted) in _WHOLE.items():
        value = trainer.get(name)
        if (isinstance(value, int) and not low <= value <= _LARGEST.get(name, LARGEST)) or (
            value == 0 and name in _NOT_ZERO
        ):
            raise SettingsError(expected(f"trainer.{name}", value, accepted))
    for name, takes_zero in _SHARES.items():
        value = trainer.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if not 0 <= value <= (1 if isinstance(value, float) else LARGEST) or not (value or takes_zero):
            accepted = f"a share up to 1.0 or a number of batches{'' if takes_zero else ', above 0'}"
            raise SettingsError(expected(f"trainer.{name}", value, accepted))
    for unit in ("epochs", "steps"):
        least, most = trainer.get(f"min_{unit}"), trainer.get(f"max_{unit}")
        if isinstance(least, int) and isinstance(most, int) and -1 < most < least:
            raise SettingsError(expected(f"trainer.min_{unit}", least, f"at most trainer.max_{unit}, {most}"))
    algorithm = trainer.get("gradient_clip_algorithm")
    if isinstance(algorithm, str) and algorithm.lower() not in ("norm", "value"):
        raise SettingsError(expected("trainer.gradient_clip_algorithm", algorithm, "norm or value"))
    clip = trainer.get("gradient_clip_val")
    if isinstance(clip, int | float) and not 0 <= clip < math.inf:
        raise SettingsError(expected("trainer.gradient_clip_val", clip, "a finite number of at least 0"))
    for name in ("max_time", "val_check_interval"):
        duration = trainer.get(name)
        units = {"weeks", "days", "hours", "minutes", "seconds"}
        if isinstance(duration, Mapping | Namespace) and not set(dict(duration)) <= units:
            raise SettingsError(expected(f"trainer.{name}", dict(duration), "DD:HH:MM:SS, or days, hours, ..."))
    duration = trainer.get("max_time")
    if isinstance(duration, str) and not re.fullmatch(r"[0-9]{2,}:[0-9]{2}:[0-9]{2}:[0-9]{2}", duration):
        raise SettingsError(expected("trainer.max_time", duration, "DD:HH:MM:SS"))
