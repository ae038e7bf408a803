"""What this package uses of Lightning and torch beyond their documented interface, each with its reason.

tests/callbacks/test_private_apis.py has a test for each, which fails by name when a release changes it.
"""

from typing import Any

from torch import Tensor

__all__ = ["has_loss_scaler", "keep_out_of_ddp", "log_interval", "skip_fused_step"]


def log_interval(trainer: Any) -> int:
    """``log_every_n_steps`` as given to the Trainer, at least 1. It is an attribute, but no documented property."""
    return trainer.log_every_n_steps or 1


def has_loss_scaler(trainer: Any) -> bool:
    """Whether the precision plugin scales losses. An argument of `MixedPrecision`, but no documented attribute."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def skip_fused_step(optimizer: Any, skip: Tensor) -> bool:
    """Have a fused optimizer's next step change nothing where ``skip`` is true, as for torch's gradient scaler.

    The scaler itself would wait for the device. Returns False for optimizers that have no such step.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    optimizer.grad_scale, optimizer.found_inf = None, skip.float()
    return True


def keep_out_of_ddp(module: Any, names: list[str]) -> None:
    """Have DDP neither average the gradients of the named parameters nor broadcast them. DDP has no argument for it."""
    module._ddp_params_and_buffers_to_ignore = names
