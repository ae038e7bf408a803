"""Keeping what is not finite out of the weights: seen on the device, so that no step waits for it."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from arcface_pl.errors import NonFiniteError

__all__ = ["FiniteGuard"]


class FiniteGuard:
    """Sees a step's loss and gradients before the optimiser does, and lets nothing pass that is not finite.

    Args:
        deferred: Mask the step's update where it is made, without waiting for the device, and raise when
            :meth:`report` is next asked; otherwise raise at once.
    """

    def __init__(self, deferred: bool) -> None:
        self.deferred = deferred
        self._loss_bad: Tensor | None = None
        self._first_bad: Tensor | None = None

    def see_loss(self, loss: Tensor, step: int) -> None:
        """Look at the loss of a batch, before its backward pass.

        Args:
            loss: Scalar.
            step: Number of the optimiser step that it is for.

        Raises:
            NonFiniteError: If it is not finite, and that is not deferred.
        """
        if not self.deferred:
            # Anomaly detection names the operation, but only in the backward pass.
            if not math.isfinite(loss.item()) and not torch.is_anomaly_enabled():
                raise NonFiniteError(f"the loss is {loss.item()}", step)
            return
        bad = ~torch.isfinite(loss.detach())
        self._loss_bad = bad if self._loss_bad is None else self._loss_bad | bad

    def before_step(self, optimizer: Optimizer, step: int, scaled: bool = False) -> None:
        """Look at the gradients, and keep the optimiser from a step with any that is not finite.

        Args:
            optimizer: Holds the weights, whose gradients are complete.
            step: Its number.
            scaled: Whether a loss scaler looks at the gradients, and skips steps, itself.

        Raises:
            NonFiniteError: If one is not finite, and that is not deferred.
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
            _mask(optimizer, grads, bad)
        here = torch.where(bad, step, -1)
        first = here if self._first_bad is None else self._first_bad
        self._first_bad = torch.where(first >= 0, first, here)

    def report(self) -> None:
        """Wait for the device, and say whether anything was masked since the guard was made.

        Raises:
            NonFiniteError: If so, with the first such step.
        """
        step = -1 if self._first_bad is None else int(self._first_bad.item())
        if step >= 0:
            raise NonFiniteError("the loss or a gradient is not finite", step)


def _mask(optimizer: Any, grads: list[Tensor], bad: Tensor) -> None:
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        # A fused step leaves weights and moments alone where this is 1, as it does for a loss scaler.
        optimizer.grad_scale, optimizer.found_inf = None, bad.float()
        return
    for grad in grads:
        grad.masked_fill_(bad, 0.0)
