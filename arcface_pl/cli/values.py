"""What a single value must be, where neither the parser of settings nor the class that takes it looks closely."""

import inspect
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_origin, get_type_hints

from arcface_pl.cli.error_lines import plain_types
from arcface_pl.errors import SettingsError

__all__ = ["check_seed", "check_trainer_values", "check_values", "name_culprit"]

LARGEST_SEED = 2**32 - 1
# Lightning counts steps and batches in what must stay a machine's whole number
LARGEST = 2**31 - 1

# Lightning's Trainer takes any of these for good and fails, or does nothing, in the middle of the run.
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
}
_NOT_ZERO = ("max_epochs", "max_steps")
_ABOVE_ZERO = ("limit_train_batches", "val_check_interval")
_SHARES = (
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "overfit_batches",
    "val_check_interval",
)


def check_values(key: str, call: Callable[..., Any], given: Mapping[str, Any], parsed: Mapping[str, Any]) -> None:
    """Refuse what the parser of settings lets pass: null anywhere, text for a number, and numbers without an end.

    Args:
        key: Full name of the settings.
        call: What takes them: a class.
        given: The settings as they stand in a config or flag.
        parsed: The same after the parser.

    Raises:
        SettingsError: Names the setting, what it got and what it accepts.
    """
    hints = _hints(call)
    parameters = inspect.signature(call).parameters
    for name, value in given.items():
        hint = hints.get(name, Any)
        default = parameters[name].default if name in parameters else None
        if value is None and default is not None and not _takes_null(hint):
            raise SettingsError(f"{key}.{name}: got null, but it accepts {_describe(hint)}")
        _check_numbers(f"{key}.{name}", hint, value, parsed.get(name))


def _check_numbers(key: str, hint: Any, given: Any, parsed: Any) -> None:
    if isinstance(parsed, (str, Mapping)) or _is_namespace(parsed):
        return
    if isinstance(parsed, Sequence) and isinstance(given, Sequence) and len(parsed) == len(given):
        for one, other in zip(given, parsed, strict=True):
            _check_numbers(key, hint, one, other)
    if not isinstance(parsed, int | float) or isinstance(parsed, bool):
        return
    if isinstance(given, str):
        # int() and float() read full-width digits, and "1_0" as 10
        raise SettingsError(f"{key}: got the text {given!r}, but it accepts {_describe(hint)}")
    if not math.isfinite(parsed):
        raise SettingsError(f"{key}: got {parsed!r}, but it accepts a finite number")


def _is_namespace(value: Any) -> bool:
    return hasattr(value, "as_dict")


def _hints(call: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(call.__init__ if inspect.isclass(call) else call)
    except (NameError, TypeError, AttributeError):  # a user's class may name types that are there for a checker only
        return {}


def _takes_null(hint: Any) -> bool:
    return hint in (Any, None, types.NoneType) or any(map(_takes_null, get_args(hint)))


def _describe(hint: Any) -> str:
    return "a value" if hint is Any else plain_types(hint.__name__ if get_origin(hint) is None else str(hint))


def check_seed(value: Any) -> None:
    """Refuse a ``seed_everything`` that does not decide the run.

    Args:
        value: What a config or flag says.

    Raises:
        SettingsError: If it is no whole number from 0 to 4294967295.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_SEED:
        raise SettingsError(f"seed_everything: got {value!r}, but it accepts a whole number from 0 to {LARGEST_SEED}")


def check_trainer_values(trainer: Mapping[str, Any]) -> None:
    """Refuse numbers that Lightning's Trainer would take and stumble over in the middle of the run.

    Args:
        trainer: The Trainer's settings.

    Raises:
        SettingsError: Names the setting, what it got and what it accepts.
    """
    for name, (low, accepted) in _WHOLE.items():
        value = trainer.get(name)
        if (isinstance(value, int) and not low <= value <= LARGEST) or (value == 0 and name in _NOT_ZERO):
            raise SettingsError(f"trainer.{name}: got {value!r}, but it accepts {accepted}")
    for name in _SHARES:
        value = trainer.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        low_open = name in _ABOVE_ZERO
        if not 0 <= value <= (1 if isinstance(value, float) else LARGEST) or (low_open and value == 0):
            raise SettingsError(
                f"trainer.{name}: got {value!r}, but it accepts a share up to 1.0 or a number of batches"
                f"{', above 0' if low_open else ''}"
            )
    clip = trainer.get("gradient_clip_val")
    if isinstance(clip, int | float) and not 0 <= clip < math.inf:
        raise SettingsError(f"trainer.gradient_clip_val: got {clip!r}, but it accepts a finite number of at least 0")
    for name in ("max_time", "val_check_interval"):
        duration = trainer.get(name)
        if isinstance(duration, Mapping) and not duration.keys() <= {"weeks", "days", "hours", "minutes", "seconds"}:
            raise SettingsError(
                f"trainer.{name}: got {dict(duration)!r}, but it accepts DD:HH:MM:SS, or days, hours, ..."
            )
    duration = trainer.get("max_time")
    if isinstance(duration, str) and not re.fullmatch(r"[0-9]{2,}:[0-9]{2}:[0-9]{2}:[0-9]{2}", duration):
        raise SettingsError(f"trainer.max_time: got {duration!r}, but it accepts DD:HH:MM:SS")
    devices = trainer.get("devices")
    if isinstance(devices, int) and not (devices == -1 or 1 <= devices <= 4096):
        raise SettingsError(f"trainer.devices: got {devices!r}, but it accepts 1 to 4096, a list of them, -1 or auto")


def name_culprit(make: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """Find the argument without which a call that failed works.

    Args:
        make: What was called.
        arguments: What it was called with.

    Returns:
        The argument's name, or "" where there is no such one.
    """
    for name in arguments:
        try:
            make(**{other: value for other, value in arguments.items() if other != name})
        except Exception:
            continue
        return name
    return ""
