"""What an `ArcFaceModule` cannot train with: callbacks of Lightning, misspelled monitors, batches of one image."""

import os
import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import lightning as L
import torch
from lightning.pytorch import callbacks as of_lightning
from torch import nn

from arcface_pl.errors import SettingsError, expected, printable

_REASONS: dict[type[L.Callback], tuple[str, str]] = {
    of_lightning.BackboneFinetuning: (
        "it changes the rate of the optimizer's last group, which holds the class centers",
        "Subclass BaseFinetuning",
    ),
    of_lightning.BatchSizeFinder: (
        "the run would use another batch size than its config.yaml and checkpoints record",
        "Set data.batch_size",
    ),
    of_lightning.LearningRateFinder: (
        "it sets an attribute lr of the module, and the optimizer has its rate from the settings",
        "Set model.optimizer.lr",
    ),
    of_lightning.ModelPruning: (
        "it masks weights in forward(), which the loss of the class centers does not call",
        "Prune the backbone of the trained model with torch.nn.utils.prune",
    ),
}

_BETTER = {
    "loss": "min",
    "target_mean": "min",
    "accuracy": "max",
    "margin_accuracy": "max",
    "nearest_other_mean": "max",
}


def check_callbacks(module: Any, trainer: Any) -> None:
    """Refuse, before any work, callbacks of Lightning that would fail in the run or change it unnoticed.

    Args:
        module: An `ArcFaceModule`.
        trainer: Its Trainer.

    Raises:
        SettingsError: Names the callback and the reason.
    """
    for callback in trainer.callbacks:
        if reason := _reason(callback, module):
            name = type(callback).__name__
            raise SettingsError(expected("trainer.callbacks", name, f"another callback: {reason[0]}", reason[1]))
    _check_monitors(module, trainer.callbacks)


def check_mode(name: str, monitor: str, mode: Any) -> None:
    """Refuse a mode that takes the worst of an `ArcFaceModule`'s scores for the best.

    Args:
        name: Full name of the mode's setting.
        monitor: A logged score, such as val/accuracy.
        mode: min if lower is better, max if higher is.

    Raises:
        SettingsError: Names the setting.
    """
    better = _BETTER.get(monitor.rpartition("/")[2])
    if better is not None and mode in ("min", "max") and mode != better:
        raise SettingsError(
            expected(name, mode, f"{better}: {'lower' if better == 'min' else 'higher'} {monitor} is better")
        )


def check_left_over(callbacks: Sequence[L.Callback]) -> None:
    """Refuse to start a new run where Lightning would resume another from the file of an `OnExceptionCheckpoint`.

    Raises:
        SettingsError: Names the folder and the file.
    """
    for callback in callbacks:
        if isinstance(callback, of_lightning.OnExceptionCheckpoint) and os.path.exists(path := callback.ckpt_path):
            accepted = f"a folder without {os.path.basename(path)}, from which Lightning would resume"
            remedy = f"Resume with --ckpt_path {printable(path)}, or give another folder"
            raise SettingsError(
                expected("trainer.callbacks.dirpath of OnExceptionCheckpoint", str(callback.dirpath), accepted, remedy)
            )


def check_batch_norm(module: Any, batch_size: Any) -> None:
    """Refuse a batch size of 1 where the network normalizes over the batch only.

    Raises:
        SettingsError: Names the setting.
    """
    images = getattr(module, "example_input_array", None)
    if batch_size != 1 or images is None:
        return
    backbone = deepcopy(module.backbone).train()
    try:
        with torch.random.fork_rng([]), torch.no_grad():
            backbone(images)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        accepted = "at least 2, since the backbone normalizes over the batch"
        raise SettingsError(expected("data.batch_size", 1, accepted)) from None


def _reason(callback: L.Callback, module: nn.Module) -> tuple[str, str] | None:
    """Return why a callback cannot work, and what to do instead."""
    if type(callback) in (of_lightning.BaseFinetuning, of_lightning.BasePredictionWriter):
        return "it is abstract", "Subclass it, and name the subclass"
    if isinstance(callback, of_lightning.SpikeDetection) and not hasattr(callback, "running"):
        return "this release of Lightning cannot load its state, so that the run's checkpoints are useless", ""
    if isinstance(callback, of_lightning.StochasticWeightAveraging) and not callback.pl_module_contains_batch_norm(
        module  # type: ignore[arg-type]
    ):
        fault = "without batch norm it changes the weights after the last checkpoint"
        return fault, "Use ExponentialMovingAverage or WeightAveraging"
    return next((reason for cls, reason in _REASONS.items() if isinstance(callback, cls)), None)


def _check_monitors(module: Any, callbacks: Sequence[L.Callback]) -> None:
    """Refuse a monitor that is a score written in another way, such as val_loss or accuracy, and a mode against it.

    Other names are left to the run: a callback or a subclass may log them.
    """
    known = ["train/loss", *module.scores["val"].by_key()]
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str):
            continue
        if "/" in monitor:
            check_mode(f"trainer.callbacks.mode of {type(callback).__name__}", monitor, getattr(callback, "mode", None))
            continue
        near = [
            name for name in known if _bare(monitor) and re.search(rf"^{_bare(monitor)}|{_bare(monitor)}$", _bare(name))
        ]
        if near:
            name = f"trainer.callbacks.monitor of {type(callback).__name__}"
            raise SettingsError(expected(name, monitor, f"one of {', '.join(known)}", f"Did you mean {near[0]}?"))


def _bare(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
