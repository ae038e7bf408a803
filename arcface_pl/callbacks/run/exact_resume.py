"""Settings that affect bit-exact reproducibility: stored in checkpoints and compared on resume."""

import logging
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from arcface_pl.callbacks.run.arithmetic import Arithmetic
from arcface_pl.callbacks.run.compile import CompileTraining
from arcface_pl.errors import CheckpointError
from arcface_pl.seeding import run_seed

__all__ = ["ExactResume"]

_LOG = logging.getLogger(__name__)
_ROUNDING = "sums are rounded differently, so that weights differ in their last bits"
_LOST = {
    "data_module": "the batches differ",
    "world_size": "the batches differ",
    "accumulate_grad_batches": "the steps use other batches",
    "seed_everything": "dropout and drawn margins differ",
}


class ExactResume(L.Callback):
    """Refuses to resume a run that would not continue bit for bit; restores which parameters are frozen.

    Override `facts` to compare more or less.

    Args:
        allow_inexact: Warn instead of refusing. A data module's ``allow_inexact_resume`` does the same.
    """

    def __init__(self, allow_inexact: bool = False) -> None:
        self.allow_inexact = allow_inexact
        self._frozen: list[str] | None = None

    def facts(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return what the run's numbers depend on besides its data and configuration, as plain values by name."""
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        arithmetic = next((each for each in callbacks if isinstance(each, Arithmetic)), Arithmetic())
        compiled = next((each.mode for each in callbacks if isinstance(each, CompileTraining)), None)
        device = trainer.strategy.root_device
        return {
            "data_module": type(getattr(trainer, "datamodule", None)).__name__,
            "world_size": trainer.world_size,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "seed_everything": run_seed(),
            "device": _device_name(device),
            "num_threads": torch.get_num_threads() if device.type == "cpu" else None,
            "precision": str(trainer.precision),
            "channels_last": getattr(pl_module, "channels_last", None),
            "compile": compiled,
            "matmul_precision": arithmetic.matmul_precision,
            "torch": str(torch.__version__),
        }

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the facts, and the names of frozen parameters."""
        checkpoint["exact"] = self.facts(trainer, pl_module)
        frozen = [name for name, weight in pl_module.named_parameters() if not weight.requires_grad]
        checkpoint["exact"]["frozen"] = frozen

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare the facts where training is resumed.

        Raises:
            CheckpointError: Names each fact that differs, with both values.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        saved = checkpoint.get("exact", {})
        self._frozen = saved.get("frozen")
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

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Freeze the parameters that were frozen, and no others: callbacks change that while training."""
        if self._frozen is not None:
            for name, weight in pl_module.named_parameters():
                weight.requires_grad_(name not in self._frozen)
            self._frozen = None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
