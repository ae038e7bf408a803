"""The Trainer's settings: what goes with what is turned off, and with this machine."""

from typing import Any

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch import strategies as lightning_strategies
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.plugins import Precision

from arcface_pl.callbacks.run.private_apis import put_whole_numbers_first
from arcface_pl.cli.building import class_path, parameter_of
from arcface_pl.cli.layers import import_class
from arcface_pl.cli.values import check_accelerator_name, read_devices
from arcface_pl.errors import SettingsError, expected

for each in (L.Trainer, lightning_callbacks.ModelPruning, lightning_callbacks.StochasticWeightAveraging):
    put_whole_numbers_first(each)

_NOT_BAREBONES = {
    **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), "false"),
    **dict.fromkeys(("log_every_n_steps", "num_sanity_val_steps"), "0"),
    **dict.fromkeys(("callbacks", "profiler"), "null"),
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
    trainer["devices"] = read_devices(trainer.get("devices"))
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
    """Refuse an accelerator that does not exist, or not here."""
    check_accelerator_name(accelerator, AcceleratorRegistry.available_accelerators())
    mps, cuda = torch.backends.mps.is_available(), torch.cuda.is_available()
    if not {"gpu": cuda or mps, "cuda": cuda, "mps": mps}.get(accelerator, True):
        accepted = "cpu or auto: torch finds no such device here"
        raise SettingsError(expected("trainer.accelerator", accelerator, accepted))


def check_barebones(trainer: Namespace) -> None:
    """Refuse what barebones turns off by itself and was turned on: Lightning names one of them at a time."""
    kept = [f"--{name} {off}" for name, off in _NOT_BAREBONES.items() if trainer.get(name) not in (None, False, 0, [])]
    if trainer.get("barebones") and kept:
        raise SettingsError(expected("trainer.barebones", True, f"false, or {' '.join(kept)} with it"))
