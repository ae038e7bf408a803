"""Moving class centers inside the backward pass, where their gradient is made."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from arcface_pl.errors import NonFiniteError

__all__ = ["InBackwardSGD"]


class InBackwardSGD:
    r"""SGD on class centers a chunk at a time, so that their whole gradient is never kept.

    $$v \leftarrow \mu v + g + \lambda w, \qquad w \leftarrow w - \eta v$$

    The rate, the momentum, ``nesterov`` and the weight decay are those that the centers' parameter group has at that
    moment (0 where the optimiser knows none), and the momentum's buffer is part of the optimiser's state: schedules and
    checkpoints see what they would see if ``torch.optim.SGD`` made the step.

    Args:
        optimizer: Holds the centers; its own ``step`` then passes them over, since they have no gradient.
        weight: The class centers.

    Raises:
        ValueError: If the optimiser does not hold the centers, or asks for dampening or maximisation.
    """

    def __init__(self, optimizer: Optimizer, weight: nn.Parameter) -> None:
        holding = [
            number
            for number, group in enumerate(optimizer.param_groups)
            if any(parameter is weight for parameter in group["params"])
        ]
        if not holding:
            raise ValueError("optimizer must hold the class centers; got one whose parameter groups do not")
        self.optimizer, self.weight, self._number = optimizer, weight, holding[0]
        for name in ("dampening", "maximize"):
            if value := optimizer.param_groups[self._number].get(name):
                raise ValueError(f"{name} must be off for an update in the backward pass; got {value!r}")

    @torch.no_grad()
    def __call__(self, rows: slice | Tensor, grad: Tensor) -> None:
        """Move some centers.

        Args:
            rows: Of the weight: a slice, or indices without a double.
            grad: (n, D), which may be overwritten. One that is not finite moves nothing.

        Raises:
            NonFiniteError: On a CPU, if it is not finite; elsewhere asking would wait for the device.
        """
        group = self.optimizer.param_groups[self._number]
        centers, step = self.weight[rows], grad.to(self.weight.dtype)
        finite = torch.isfinite(torch.linalg.vector_norm(step))
        if step.device.type != "cpu":
            step = step.masked_fill(~finite, 0.0)
        elif not finite:
            raise NonFiniteError("a gradient of the class centers is not finite")
        if decay := group.get("weight_decay", 0):
            step.add_(centers, alpha=decay)
        if momentum := group.get("momentum", 0):
            state = self.optimizer.state[self.weight]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(self.weight)
            velocity = state["momentum_buffer"]
            moved = velocity[rows].mul_(momentum).add_(step)
            if not isinstance(rows, slice):  # indexing with a tensor makes a copy
                velocity[rows] = moved
            step = step.add_(moved, alpha=momentum) if group.get("nesterov") else moved
        centers.add_(step, alpha=-float(group["lr"]))
        if not isinstance(rows, slice):
            self.weight[rows] = centers
