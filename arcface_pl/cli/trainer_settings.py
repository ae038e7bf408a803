"""The Trainer's settings: what goes with what is turned off, and values that fail in the middle of a run."""

import math
import re
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch import strategies as lightning_strategies
from lightning.pytorch.plugins import Precision

from arcface_pl.callbacks.run.private_apis import put_whole_numbers_first
from arcface_pl.cli.building import class_path, parameter_of
from arcface_pl.cli.config import import_class
from arcface_pl.errors import SettingsError, expected

for each in (L.Trainer, lightning_callbacks.ModelPruning, lightning_callbacks.StochasticWeightAveraging):
    put_whole_numbers_first(each)

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
_NOT_BAREBONES = {
    **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), "false"),
    **dict.fromkeys(("log_every_n_steps", "num_sanity_val_steps"), "0"),
    **dict.fromkeys(("callbacks", "profiler"), "null"),
}
# Shares or numbers of batches, and whether 0 is accepted
_SHARES = {
    "limit_train_batches": False,
    "limit_val_batches": True,
    "limit_test_batches": True,
    "limit_predict_batches": True,
    "overfit_batches": True,
    "val_check_interval": False,
}
# A Trainer flag that turns something off removes the callbacks that Lightning would otherwise reject.
_NEEDS: dict[str, Any] = {
    "enable_progress_bar": lightning_callbacks.ProgressBar,
    "enable_checkpointing": lightning_callbacks.Checkpoint,
    "logger": (
        lightning_callbacks.LearningRateMonitor,
        lightning_callbacks.DeviceStatsMonitor,
        lightning_callbacks.ThroughputMonitor,
    ),
}


def adapt_trainer(trainer: Namespace, logs: bool) -> None:
    """Remove what does not go with what is turned off, and fill in folders that loggers must be given."""
    if not logs:
        trainer["logger"] = False
    if re.fullmatch(r"-?[0-9]+", str(trainer.get("devices"))):  # jsonargparse takes text for a list of devices, "0,1"
        trainer["devices"] = int(trainer["devices"])
    for flag, kind in _NEEDS.items():
        if trainer.get(flag) is False:
            nodes = trainer.get("callbacks") or []
            trainer["callbacks"] = [each for each in nodes if not _is_a(each, kind)]
    nodes = trainer.get("callbacks") or []
    bars = [each for each in nodes if _is_a(each, lightning_callbacks.ProgressBar)]
    trainer["callbacks"] = [each for each in nodes if each not in bars[:-1]]  # one that is added replaces the base's
    chosen = getattr(lightning_strategies, str(trainer.get("strategy")), import_class(trainer.get("strategy")))
    if isinstance(chosen, type):  # text, to jsonargparse, since a strategy may be text
        trainer["strategy"] = Namespace(class_path=class_path(chosen), init_args=Namespace())
    plugins = trainer.get("plugins") or []
    if any(_is_a(each, Precision) for each in (plugins if isinstance(plugins, list) else [plugins])):
        trainer["precision"] = None  # the plugin has it
    fill_save_dirs(trainer, required=True)


def fill_save_dirs(trainer: Namespace, required: bool) -> None:
    """Have loggers write below the Trainer's root: those that need a folder, or those that were given none."""
    loggers = trainer.get("logger")
    for node in loggers if isinstance(loggers, list) else [loggers]:
        parameter = parameter_of(node, "save_dir") if isinstance(node, Namespace) else None
        if parameter is None:
            continue
        if node.get("init_args.save_dir") is None and (parameter.default is parameter.empty or not required):
            node["init_args.save_dir"] = str(trainer.get("default_root_dir") or ".")


def _is_a(node: Any, kind: Any) -> bool:
    return isinstance(node, Namespace) and issubclass(import_class(node.class_path) or object, kind)


def check_accelerator(accelerator: Any) -> None:
    mps, cuda = torch.backends.mps.is_available(), torch.cuda.is_available()
    if not {"gpu": cuda or mps, "cuda": cuda, "mps": mps}.get(accelerator, True):
        accepted = "cpu or auto: torch finds no such device here"
        raise SettingsError(expected("trainer.accelerator", accelerator, accepted))


def check_trainer_values(trainer: Mapping[str, Any] | Namespace) -> None:
    """Refuse numbers that the Trainer would fail on in the middle of the run.

    Args:
        trainer: The Trainer's settings.

    Raises:
        SettingsError: Names the setting, its value and what is accepted.
    """
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
    kept = [f"--{name} {off}" for name, off in _NOT_BAREBONES.items() if trainer.get(name) not in (None, False, 0, [])]
    if trainer.get("barebones") and kept:
        raise SettingsError(expected("trainer.barebones", True, f"false, or {' '.join(kept)} with it"))
