"""Settings that affect bit-exact reproducibility: stored in checkpoints and compared on resume."""

import logging
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.trainer.states import TrainerFn

from arcface_pl.callbacks.run import resumed_settings as settings
from arcface_pl.callbacks.run.arithmetic import Arithmetic
from arcface_pl.callbacks.run.compile import CompileTraining
from arcface_pl.callbacks.run.module_changes import ModuleChanges, lost
from arcface_pl.callbacks.run.private_apis import finish_epoch
from arcface_pl.callbacks.run.resumed_settings import differences, verdict
from arcface_pl.callbacks.run.trainer_changes import TrainerChanges
from arcface_pl.errors import CheckpointError
from arcface_pl.seeding import run_seed

_LOG = logging.getLogger(__name__)
_ROUNDING = "sums are rounded differently, so that weights differ in their last bits"
_LOST = {
    "data": "the batches differ",
    "trainer.devices": "the batches differ",
    "trainer.accumulate_grad_batches": "the steps use other batches",
    "seed_everything": "dropout and drawn margins differ",
}


class ExactResume(L.Callback):
    """Refuses to resume a run that would not continue bit for bit or that has other settings.

    What another value of a setting does is decided by `RESUMED_SETTINGS`. What callbacks changed in the module while it
    trained (frozen parameters, modules in evaluation mode, tensors and plain attributes such as a dropout's ``p``) is
    restored. Replaced modules, hooks and functions, which no checkpoint can hold, must be there again by the first
    step. Accumulation and clipping that a callback set in the Trainer are restored, unless this run's settings ask for
    others. Arguments of callbacks are those of the present run where a callback's state would override them. Where
    training on with other data is allowed, best scores measured on the old data are forgotten.

    Override `facts` to compare more or less.

    Args:
        allow_inexact: Warn instead of refusing. A data module's ``allow_inexact_resume`` does the same.
    """

    def __init__(self, allow_inexact: bool = False) -> None:
        self.allow_inexact = allow_inexact
        self._saved: dict[str, Any] | None = None
        self._restored: dict[str, Any] = {}
        self._present: dict[str, Any] = {}
        self._given: dict[str, dict[str, Any]] = {}
        self._changes = ModuleChanges()
        self._accumulation: int | None = None
        self._trainer_changes: TrainerChanges | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Note what was asked for: StochasticWeightAveraging and others change the Trainer's."""
        self._accumulation = trainer.accumulate_grad_batches
        self._trainer_changes = TrainerChanges(trainer)

    def facts(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return what the run's numbers depend on besides its data and configuration, as plain values by full name."""
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        arithmetic = next((each for each in callbacks if isinstance(each, Arithmetic)), Arithmetic())
        compiled = next((each.mode for each in callbacks if isinstance(each, CompileTraining)), None)
        scheduled = any(isinstance(each, GradientAccumulationScheduler) for each in callbacks)
        device = trainer.strategy.root_device
        return {
            "data": type(getattr(trainer, "datamodule", None)).__name__,
            "trainer.devices": trainer.world_size,
            "trainer.num_nodes": trainer.num_nodes,
            # A scheduler's numbers are compared as its argument
            "trainer.accumulate_grad_batches": None if scheduled else self._accumulation,
            "seed_everything": run_seed(),
            "trainer.accelerator": _device_name(device),
            "model.num_threads": torch.get_num_threads() if device.type == "cpu" else None,
            "trainer.precision": str(trainer.precision),
            "model.channels_last": getattr(pl_module, "channels_last", None),
            "model.compile": compiled,
            "model.matmul_precision": arithmetic.matmul_precision,
            "model.shard_head": getattr(pl_module, "shard_head", None),
            "torch": str(torch.__version__),
        }

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the facts, the settings, and what was changed in the module."""
        checkpoint["exact"] = {
            **self.facts(trainer, pl_module),
            "settings": {
                name: value
                for name, value in (self._present or self._settings(trainer, pl_module)).items()
                if verdict(name) in ("refused", "unless allowed")
            },
            "trainer": {} if self._trainer_changes is None else self._trainer_changes.state_of(trainer),
            "module": self._changes.state_of(pl_module, evaluating=trainer.validating or trainer.sanity_checking),
        }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare the facts where training is resumed.

        Raises:
            CheckpointError: Names each fact that differs, with both values.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if settings.has_other_data(getattr(trainer, "datamodule", None), checkpoint):
            settings.forget_scores(checkpoint)
        self._saved = saved = checkpoint.get("exact", {})
        self._given = {
            place: {attribute: vars(each)[attribute] for attribute in settings.argument_attributes(each).values()}
            for place, each in settings.callbacks_by_name(trainer).items()
        }
        facts = {name: value for name, value in self.facts(trainer, pl_module).items() if name in saved}
        self._refuse_unless_allowed(trainer, {name: saved[name] for name in facts}, facts)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the settings, before the checkpoint's optimizer and schedule replace those of this run.

        Raises:
            CheckpointError: Names each setting that differs, with both values.
        """
        self._changes.begin(pl_module)
        self._present = self._settings(trainer, pl_module)
        for place, callback in settings.callbacks_by_name(trainer).items():
            vars(callback).update(self._given.get(place, {}))  # callbacks restored their state meanwhile
        saved = (self._saved or {}).get("settings")
        if saved is None:
            return
        saved = settings.with_new_arguments(saved, pl_module)
        if settings.swa_took_over(trainer):
            kept = {name: value for name, value in saved.items() if name.startswith("model.lr_schedule")}
            self._present |= kept
        _refuse(saved, self._present)
        self._refuse_unless_allowed(trainer, saved, self._present)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore what was changed in the module; warn if the schedule that was restored has ended at 0."""
        if self._saved is None:
            return
        finish_epoch(trainer)
        self._restored = self._saved.get("module", {})
        self._changes.restore(pl_module, self._restored)
        if self._trainer_changes is not None:
            self._trainer_changes.restore(trainer, self._saved.get("trainer", {}))
        self._saved = None
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if rates and not any(rates) and not trainer.fit_loop.done:
            _LOG.warning(
                "The checkpoint's learning rate is 0: its schedule has ended, and steps at that rate change nothing. "
                "Start a new run to train on."
            )

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Any) -> None:
        """Compare what the first step ran with what callbacks had changed: by now they had every chance to change it.

        Raises:
            CheckpointError: Names each module that differs, with both.
        """
        if self._restored and (found := lost(pl_module, self._restored)):
            self._refuse_or_warn(trainer, [f"{each} (a callback changed it in training)" for each in found])
        self._restored = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Remember which modules are in training mode: a checkpoint may be written during validation."""
        self._changes.see_modes()

    def _settings(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        return settings.network_settings(pl_module) | settings.training_settings(trainer, pl_module)

    def _refuse_unless_allowed(self, trainer: L.Trainer, saved: dict[str, Any], present: dict[str, Any]) -> None:
        found = [
            f"{each} ({_LOST.get(each.partition(':')[0], _ROUNDING)})"
            for each in differences(saved, present, "unless allowed")
        ]
        if found:
            self._refuse_or_warn(trainer, found)

    def _refuse_or_warn(self, trainer: L.Trainer, found: list[str]) -> None:
        listed = "; ".join(found)
        if not (self.allow_inexact or getattr(getattr(trainer, "datamodule", None), "allow_inexact_resume", False)):
            fault = f"the run cannot be resumed exactly. {listed}"
            raise CheckpointError("--ckpt_path", fault, "use the checkpoint's values, or --allow_inexact_resume")
        _LOG.warning("The run continues, but not as the uninterrupted one would. %s", listed)


def check_networks(module: Any, checkpoint: dict[str, Any]) -> None:
    """Refuse to resume with another backbone, head, extra loss or teacher, before weights are found not to fit.

    Raises:
        CheckpointError: Names each setting that differs, with both values.
    """
    saved = settings.with_new_arguments((checkpoint.get("exact") or {}).get("settings") or {}, module)
    roles = ("backbone", "head", "extra_losses", "teacher", "teacher_weight")
    networks = {
        name: value for name, value in saved.items() if name.startswith("model.") and name.split(".")[1] in roles
    }
    if networks:
        _refuse(networks, settings.network_settings(module))


def _refuse(saved: dict[str, Any], present: dict[str, Any]) -> None:
    if fixed := differences(saved, present, "refused"):
        remedy = "use the checkpoint's values, or start a new run"
        raise CheckpointError("--ckpt_path", f"it fixes these settings. {'; '.join(fixed)}", remedy)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
