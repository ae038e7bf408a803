"""Settings that affect bit-exact reproducibility: stored in checkpoints and compared on resume."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from arcface_pl.callbacks.run.arithmetic import Arithmetic
from arcface_pl.callbacks.run.compile import CompileTraining
from arcface_pl.checkpoints.specs import PLAIN, spec_of
from arcface_pl.errors import CheckpointError
from arcface_pl.seeding import run_seed

__all__ = ["RESUMED_SETTINGS", "ExactResume"]

RESUMED_SETTINGS = {
    "model.backbone": "refused",
    "model.head": "refused",
    "model.optimizer": "refused",
    "model.lr_schedule": "refused",
    "model.head_lr": "refused",
    "model.channels_last": "unless allowed",
    "model.num_threads": "unless allowed",
    "model.compile": "unless allowed",
    "model.matmul_precision": "unless allowed",
    "trainer.accumulate_grad_batches": "unless allowed",
    "trainer.precision": "unless allowed",
    "trainer.devices": "unless allowed",
    "seed_everything": "unless allowed",
    "data": "unless allowed",
    "trainer.max_epochs": "applied",
    "trainer.min_epochs": "applied",
    "trainer.max_steps": "applied",
    "trainer.min_steps": "applied",
    "trainer.max_time": "applied",
    "trainer.limit_train_batches": "applied",
    "trainer.limit_val_batches": "applied",
    "trainer.limit_test_batches": "applied",
    "trainer.overfit_batches": "applied",
    "trainer.val_check_interval": "applied",
    "trainer.check_val_every_n_epoch": "applied",
    "trainer.gradient_clip_val": "applied",
    "trainer.gradient_clip_algorithm": "applied",
    "trainer.logger": "applied",
    "trainer.callbacks": "applied",
    "trainer.deterministic": "applied",
    "trainer.enable_progress_bar": "harmless",
    "trainer.enable_model_summary": "harmless",
    "trainer.log_every_n_steps": "harmless",
    "trainer.default_root_dir": "harmless",
}
"""What another value does when training is resumed.

refused: always; unless allowed: refused without ``allow_inexact_resume``; applied: used from then on; harmless: the
weights do not depend on it.
"""

_LOG = logging.getLogger(__name__)
_ROUNDING = "sums are rounded differently, so that weights differ in their last bits"
_LOST = {
    "data_module": "the batches differ",
    "world_size": "the batches differ",
    "accumulate_grad_batches": "the steps use other batches",
    "seed_everything": "dropout and drawn margins differ",
}


class ExactResume(L.Callback):
    """Refuses to resume a run that would not continue bit for bit or that has other settings; restores what was frozen.

    Override `facts` to compare more or less.

    Args:
        allow_inexact: Warn instead of refusing. A data module's ``allow_inexact_resume`` does the same.
    """

    def __init__(self, allow_inexact: bool = False) -> None:
        self.allow_inexact = allow_inexact
        self._frozen: list[str] | None = None
        self._settings: dict[str, Any] | None = None
        self._accumulation: Any = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Note what callbacks change in the run."""
        self._accumulation = _accumulation(trainer)

    def facts(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return what the run's numbers depend on besides its data and configuration, as plain values by name."""
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        arithmetic = next((each for each in callbacks if isinstance(each, Arithmetic)), Arithmetic())
        compiled = next((each.mode for each in callbacks if isinstance(each, CompileTraining)), None)
        device = trainer.strategy.root_device
        return {
            "data_module": type(getattr(trainer, "datamodule", None)).__name__,
            "world_size": trainer.world_size,
            "accumulate_grad_batches": self._accumulation or _accumulation(trainer),
            "seed_everything": run_seed(),
            "device": _device_name(device),
            "num_threads": torch.get_num_threads() if device.type == "cpu" else None,
            "precision": str(trainer.precision),
            "channels_last": getattr(pl_module, "channels_last", None),
            "compile": compiled,
            "matmul_precision": arithmetic.matmul_precision,
            "torch": str(torch.__version__),
        }

    def settings(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the settings of network, optimizer and schedule by full name, as plain values."""
        found: dict[str, Any] = {}
        specs = getattr(pl_module, "specs", {})  # as constructed: sharding changes the head's class
        for role in ("backbone", "head"):
            network = getattr(pl_module, role, None)
            if isinstance(network, nn.Module):
                found |= _flat(f"model.{role}", specs.get(role) or spec_of(network))
        for optimizer in trainer.optimizers[:1]:
            found |= _flat("model.optimizer", _settings_of(optimizer, optimizer.defaults))
            found["model.head_lr"] = getattr(pl_module, "head_lr", None)
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(each, StochasticWeightAveraging) for each in callbacks):
            return found  # it replaces the schedule in the run
        if trainer.optimizers:
            found["model.lr_schedule"] = None
        for config in trainer.lr_scheduler_configs[:1]:
            found |= _flat("model.lr_schedule", _settings_of(config.scheduler, vars(config.scheduler)))
        return found

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the facts, and the names of frozen parameters."""
        checkpoint["exact"] = self.facts(trainer, pl_module)
        frozen = [name for name, weight in pl_module.named_parameters() if not weight.requires_grad]
        checkpoint["exact"]["frozen"] = frozen
        checkpoint["exact"]["settings"] = self.settings(trainer, pl_module)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare the facts where training is resumed.

        Raises:
            CheckpointError: Names each fact that differs, with both values.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        saved = checkpoint.get("exact", {})
        self._frozen = saved.get("frozen")
        self._settings = saved.get("settings")
        allowed = self.allow_inexact or getattr(getattr(trainer, "datamodule", None), "allow_inexact_resume", False)
        differences = [
            f"{name}: the checkpoint has {saved[name]!r}, this run {value!r} ({_LOST.get(name, _ROUNDING)})"
            for name, value in self.facts(trainer, pl_module).items()
            if name in saved and saved[name] != value
        ]
        if not differences:
            return
        listed = "; ".join(differences)
        if not allowed:
            fault = f"the run cannot be resumed exactly. {listed}"
            raise CheckpointError("--ckpt_path", fault, "use the checkpoint's values, or --allow_inexact_resume")
        _LOG.warning("The run continues, but not as the uninterrupted one would. %s", listed)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the settings, before the checkpoint's optimizer and schedule replace those of this run.

        Raises:
            CheckpointError: Names each setting that differs, with both values.
        """
        if self._settings is None:
            return
        saved, present = self._settings, self.settings(trainer, pl_module)
        self._settings = None
        differences = [
            f"{name}: the checkpoint has {saved.get(name)!r}, this run {present.get(name)!r}"
            for name in {**saved, **present}
            if saved.get(name) != present.get(name) and RESUMED_SETTINGS[_section(name)] == "refused"
        ]
        if differences:
            remedy = "use the checkpoint's values, or start a new run"
            raise CheckpointError("--ckpt_path", f"it fixes these settings. {'; '.join(differences)}", remedy)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Freeze the parameters that were frozen, and no others: callbacks change that while training."""
        if self._frozen is not None:
            for name, weight in pl_module.named_parameters():
                weight.requires_grad_(name not in self._frozen)
            self._frozen = None


def _accumulation(trainer: Any) -> Any:
    """Return the batches per step, or the schedule of them."""
    schedulers = [each for each in trainer.callbacks if isinstance(each, GradientAccumulationScheduler)]
    scheduling = schedulers[0].scheduling if schedulers else {0: trainer.accumulate_grad_batches}
    return scheduling[0] if [*scheduling] == [0] else [[*pair] for pair in sorted(scheduling.items())]


def _section(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _settings_of(made: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Describe an optimizer or schedule by its class and those constructor arguments that it keeps as plain values."""
    names = set(inspect.signature(type(made)).parameters) - {"params", "optimizer", "total_steps", "last_epoch"}
    kwargs = {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if name in names
    }
    return {"name": type(made).__name__, "kwargs": {name: each for name, each in kwargs.items() if _is_plain(each)}}


def _is_plain(value: Any) -> bool:
    return all(isinstance(item, PLAIN) for item in (value if isinstance(value, list) else [value]))


def _flat(place: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {place: spec["name"], **{f"{place}.{name}": value for name, value in spec["kwargs"].items()}}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
