"""NaN/inf guard for losses and gradients, evaluated on the device without a host sync."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from arcface_pl.callbacks.run.private_apis import log_interval, skip_fused_step
from arcface_pl.errors import NonFiniteError


class NonFiniteGuard(L.Callback):
    """Rejects non-finite losses and gradients before the optimizer step.

    On a CPU it raises at once. On other devices it masks the step there, without waiting for the device, and raises at
    the next logged step, checkpoint or end of an epoch. Override `on_before_optimizer_step` to do something else.
    """

    def __init__(self) -> None:
        self.deferred = False
        self._loss_bad: Tensor | None = None
        self._first_bad: Tensor | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Decide by the device when to raise."""
        self.deferred = pl_module.device.type != "cpu"
        self._loss_bad = self._first_bad = None

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Check the loss."""
        self.check_loss(loss, trainer.global_step)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Check the gradients."""
        self.check_gradients(optimizer, trainer.global_step, trainer.precision == "16-mixed")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Raise at a logged step if any step was masked."""
        if trainer.global_step % log_interval(trainer) == 0:
            self.report()

    def on_train_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """Raise if any step was masked; before a checkpoint, instead of writing it."""
        self.report()

    on_save_checkpoint = on_train_epoch_end

    def check_loss(self, loss: Tensor, step: int) -> None:
        """Check a loss before its backward pass.

        Args:
            loss: Scalar.
            step: Number of the optimizer step that it is for.

        Raises:
            NonFiniteError: If it is not finite, unless deferred.
        """
        if not self.deferred:
            # Anomaly detection names the operation, but only in the backward pass.
            if not math.isfinite(loss.item()) and not torch.is_anomaly_enabled():
                raise NonFiniteError(f"the loss is {loss.item()}", step)
            return
        bad = ~torch.isfinite(loss.detach())
        self._loss_bad = bad if self._loss_bad is None else self._loss_bad | bad

    def check_gradients(self, optimizer: Optimizer, step: int, scaled: bool = False) -> None:
        """Check complete gradients, and keep the optimizer from using any that is not finite.

        Args:
            optimizer: Holds the weights.
            step: Its number.
            scaled: Whether a loss scaler checks gradients and skips steps itself.

        Raises:
            NonFiniteError: If one is not finite, unless deferred.
        """
        grads = [weight.grad for group in optimizer.param_groups for weight in group["params"]]
        grads = [grad for grad in grads if grad is not None]
        if not grads or (scaled and self._loss_bad is None):
            return
        if not self.deferred:
            if not math.isfinite(get_total_norm(grads).item()):
                raise NonFiniteError("the gradients are not finite", step)
            return
        bad = torch.zeros((), dtype=torch.bool, device=grads[0].device) if self._loss_bad is None else self._loss_bad
        self._loss_bad = None
        if not scaled:
            bad = bad | ~torch.isfinite(get_total_norm(grads))
            if not skip_fused_step(optimizer, bad):
                for grad in grads:
                    grad.masked_fill_(bad, 0.0)
        here = torch.where(bad, step, -1)
        first = here if self._first_bad is None else self._first_bad
        self._first_bad = torch.where(first >= 0, first, here)

    def report(self) -> None:
        """Wait for the device, and raise if any step since training began was masked.

        Raises:
            NonFiniteError: Names the first such step.
        """
        step = -1 if self._first_bad is None else int(self._first_bad.item())
        if step >= 0:
            raise NonFiniteError("the loss or a gradient is not finite", step)
