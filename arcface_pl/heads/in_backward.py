"""SGD on class centers inside the backward pass, without a gradient of the whole weight."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from arcface_pl.errors import NonFiniteError, expected


class InBackwardSGD:
    r"""SGD on class centers a chunk at a time, so that the gradient of the whole weight is never kept.

    $$v \leftarrow \mu v + g + \lambda w, \qquad w \leftarrow w - \eta v$$

    Learning rate, momentum, ``nesterov`` and weight decay are the current ones of the centers' parameter group (0 where
    the optimizer has none), and the momentum buffer is part of the optimizer's state: schedules and checkpoints work as
    if ``torch.optim.SGD`` took the step.

    Args:
        optimizer: Holds the centers; its ``step`` skips them, since they have no gradient.
        weight: The class centers.

    Raises:
        ValueError: If the optimizer does not hold the centers, or has dampening or ``maximize``.
    """

    def __init__(self, optimizer: Optimizer, weight: nn.Parameter) -> None:
        holding = [
            number
            for number, group in enumerate(optimizer.param_groups)
            if any(parameter is weight for parameter in group["params"])
        ]
        if not holding:
            raise ValueError(expected("optimizer", type(optimizer).__name__, "one that holds the class centers"))
        self.optimizer, self.weight, self._number = optimizer, weight, holding[0]
        for name in ("dampening", "maximize"):
            if value := optimizer.param_groups[self._number].get(name):
                raise ValueError(expected(name, value, "off (0 or false) for an update in the backward pass"))

    @torch.no_grad()
    def __call__(self, rows: slice | Tensor, grad: Tensor) -> None:
        """Update some centers.

        Args:
            rows: Of the weight: a slice, or distinct indices.
            grad: (n, D), may be overwritten. A gradient that is not finite changes nothing.

        Raises:
            NonFiniteError: On a CPU, if the gradient is not finite; elsewhere the check would wait for the device.
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
