"""What a run's numbers depend on beside its data: a checkpoint has it, so that a resumed run is exact or says not."""

import logging
from typing import Any

import torch

from arcface_pl.errors import CheckpointError
from arcface_pl.seeding import run_seed

__all__ = ["check_exact", "exact_facts"]

_LOG = logging.getLogger(__name__)
_ROUNDING = "sums are rounded otherwise, so that weights differ in their last bits"
_LOST = {
    "data_module": "other batches follow",
    "world_size": "other batches follow",
    "accumulate_grad_batches": "steps are made of other batches",
    "seed_everything": "dropout and drawn margins are others",
}


def exact_facts(module: Any) -> dict[str, Any]:
    """Collect them from a module and its Trainer.

    Args:
        module: An `ArcFaceModule` that is attached to a Trainer.

    Returns:
        Plain values by name.
    """
    trainer, on_cpu = module.trainer, module.trainer.strategy.root_device.type == "cpu"
    return {
        "data_module": type(trainer.datamodule).__name__,
        "world_size": trainer.world_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "seed_everything": run_seed(),
        "device": _device_name(trainer.strategy.root_device),
        "num_threads": torch.get_num_threads() if on_cpu else None,
        "precision": str(trainer.precision),
        "channels_last": module.channels_last,
        "compile": module.compile_mode,
        "matmul_precision": module.matmul_precision,
        "torch": str(torch.__version__),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type


def check_exact(saved: dict[str, Any], here: dict[str, Any], allowed: bool) -> None:
    """Refuse to go on where a fact is not what the checkpoint says.

    Args:
        saved: The checkpoint's facts.
        here: This run's.
        allowed: Warn instead.

    Raises:
        CheckpointError: Names each fact with both values.
    """
    differences = [
        f"{name}: the checkpoint has {saved[name]!r}, this run {value!r} ({_LOST.get(name, _ROUNDING)})"
        for name, value in here.items()
        if name in saved and saved[name] != value
    ]
    if not differences:
        return
    listed = "; ".join(differences)
    if not allowed:
        fault = f"the run cannot be resumed exactly. {listed}"
        raise CheckpointError("--ckpt_path", fault, "accepts the checkpoint's own values, or --allow_inexact_resume")
    _LOG.warning("The run goes on, but not as the uninterrupted one would. %s", listed)
