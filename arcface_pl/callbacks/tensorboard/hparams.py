"""Hyperparameters and final scores for TensorBoard's HParams tab."""

import inspect
from collections.abc import Sequence
from typing import Any

import lightning as L
from torch import Tensor, nn

from arcface_pl.callbacks.outputs import warn_once
from arcface_pl.callbacks.run.checkpoint import RunCheckpoint
from arcface_pl.callbacks.tensorboard.writer import datamodule_of, log_scores, log_settings, tensorboard_of, writer_of
from arcface_pl.checkpoints.specs import spec_of
from arcface_pl.seeding import run_seed

SCORES = ("val/accuracy", "test/accuracy", "test/margin_accuracy", "val/loss", "test/loss")


class HyperParameters(L.Callback):
    """Writes a run's hyperparameters, to the Text tab at its start and with its final scores when it is tested.

    Scores of the tested weights keep their names; those of the checkpoint that validation chose are ``val/best/*``.
    Every run writes the same hyperparameters, whatever its head, since TensorBoard only shows those of the first run.
    Other loggers get the same, and the data module's arguments.

    Args:
        scores: Logged scores of validation and test, most important first: TensorBoard's table starts with five.
    """

    def __init__(self, scores: Sequence[str] = SCORES) -> None:
        self.scores = scores
        self._values: dict[str, float | str] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the hyperparameters: the optimizer exists only while training."""
        data = datamodule_of(trainer)
        given = dict(getattr(data, "hparams", {}))
        head: Any = getattr(pl_module, "head", None)
        if not trainer.optimizers or not isinstance(head, nn.Module):
            warn_once(self, "module: got no head or optimizer; expected both. No hyperparameters are written")
            return
        optimizer, schedules = trainer.optimizers[0], trainer.lr_scheduler_configs
        rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self._values = {
            "augment": _plain(given.get("augment")),
            "batch_size": _plain(given.get("batch_size")),
            "dataset": _plain(getattr(data, "dataset_name", None)),
            "embedding_dim": _plain(getattr(head, "embedding_dim", None)),
            "head": type(head).__name__,
            "head_lr": _plain(rates[-1]),
            "head_options": _options(head),
            "lr": _plain(rates[0]),
            "lr_schedule": type(schedules[0].scheduler).__name__ if schedules else "Constant",
            "margin": _plain(getattr(head, "margin", 0.0)),
            "max_epochs": _plain(trainer.max_epochs),
            "network": type(getattr(pl_module, "backbone", None)).__name__,
            "optimizer": type(optimizer).__name__,
            "precision": str(trainer.precision),
            "processes": trainer.world_size,
            "scale": _plain(getattr(head, "scale_value", 1.0)),
            "seed": run_seed(),
            "val_fraction": _plain(given.get("val_fraction")),
            "weight_decay": _plain(optimizer.defaults.get("weight_decay", 0.0)),
        }
        log_settings(trainer, given | self._values)
        writer = writer_of(trainer)
        if writer is not None:
            rows = "\n".join(f"| {name} | {str(value).replace('|', '')} |" for name, value in self._values.items())
            writer.add_text("hyperparameters", f"| setting | value |\n|---|---|\n{rows}")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write them with the scores."""
        log_settings(trainer, self._values)  # the test logged the arguments of a user's data module over them
        policy = next((each for each in trainer.checkpoint_callbacks if isinstance(each, RunCheckpoint)), None)
        best = policy.best_metrics if policy else {}
        counts = ("/num_images", "/num_correct")
        chosen = {name: float(value) for name, value in best.items() if not name.endswith(counts)}
        log_scores(trainer, {name.replace("val/", "val/best/"): value for name, value in chosen.items()})
        logger = tensorboard_of(trainer)
        if logger is None or not self._values:
            return
        measured: dict[str, Any] = {**best, **trainer.callback_metrics}
        found = [name for name in self.scores if name in measured]
        scores = {name.replace("val/", "val/best/"): float(measured[name]) for name in found}
        logger.log_hyperparams(self._values, scores, step=trainer.global_step)


def _plain(value: Any) -> float | str:
    # TensorBoard's writer would store true and false as 1 and 0
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value).lower()


def _options(head: nn.Module) -> str:
    """Return the head's other settings that differ from its class's defaults."""
    shown = {"self", "margin", "scale", "embedding_dim", "num_classes"}
    given = spec_of(head)["kwargs"]
    return ", ".join(
        f"{name}={given[name]}"
        for name, parameter in inspect.signature(type(head)).parameters.items()
        if name in given and name not in shown and given[name] != parameter.default
    )
