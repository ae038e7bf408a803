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


def validates_after(trainer: Any, batch_idx: int) -> bool:
    """Whether Lightning validates after this training batch, within the epoch.

    ``val_check_batch`` is what ``val_check_interval`` amounts to, in batches; no property or hook tells it.
    """
    every = trainer.val_check_batch
    if not isinstance(every, int) or not trainer.enable_validation:
        return False
    return any((number + 1) % every == 0 for number in (batch_idx, trainer.fit_loop.total_batch_idx))
