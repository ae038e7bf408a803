"""Updates of class centers inside the backward pass, without a gradient of the whole weight."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from arcface_pl.errors import NonFiniteError, expected
from arcface_pl.functional.precision import pair_dtype

Rule = Literal["optimizer", "sgd"]
"""How centers move: by the optimizer's own rule, or by SGD whatever the optimizer."""


class InBackwardUpdate:
    """Moves class centers a chunk at a time, so that the gradient of the whole weight is never kept.

    Learning rate and options are the current ones of the centers' parameter group, and momentum and moments are part of
    the optimizer's state: schedules and checkpoints work as if the optimizer took the step. A row that takes no part in
    a step (Partial FC) does not change at all, and nor does its state.

    Args:
        optimizer: Holds the centers; its ``step`` skips them, since they have no gradient.
        weight: The class centers.

    Raises:
        ValueError: If the optimizer does not hold the centers, or has an option that the rule does not.
    """

    unsupported: tuple[str, ...]
    """Options of the optimizer that the rule does not have."""

    def __init__(self, optimizer: Optimizer, weight: nn.Parameter) -> None:
        holding = [
            number
            for number, group in enumerate(optimizer.param_groups)
            if any(parameter is weight for parameter in group["params"])
        ]
        if not holding:
            raise ValueError(expected("optimizer", type(optimizer).__name__, "one that holds the class centers"))
        self.optimizer, self.weight, self._number = optimizer, weight, holding[0]
        for name in self.unsupported:
            if value := optimizer.param_groups[self._number].get(name):
                raise ValueError(
                    expected(f"optimizer.{name}", value, "off (0 or false) for an update in the backward pass")
                )

    @torch.no_grad()
    def begin(self) -> Callable[[slice | Tensor, Tensor], None]:
        """Begin a step; returns `update`."""
        return self.update

    @torch.no_grad()
    def update(self, rows: slice | Tensor, grad: Tensor) -> None:
        """Update some centers.

        Args:
            rows: Of the weight: a slice, or distinct indices. No row twice in a step.
            grad: (n, D), may be overwritten.

        Raises:
            NonFiniteError: On a CPU, if the gradient is not finite; nothing has changed then. Elsewhere the check would
                wait for the device, and the gradient counts as 0.
        """
        group = self.optimizer.param_groups[self._number]
        centers, grad = self.weight[rows], grad.to(self.weight.dtype)
        finite = torch.isfinite(torch.linalg.vector_norm(grad))
        if grad.device.type != "cpu":
            grad = grad.masked_fill(~finite, 0.0)
        elif not finite:
            raise NonFiniteError("a gradient of the class centers is not finite")
        self._move(rows, centers, grad, group)
        if not isinstance(rows, slice):  # indexing with a tensor makes a copy
            self.weight[rows] = centers

    def _move(self, rows: slice | Tensor, centers: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        """Change ``centers``, the rows of the weight, in place; ``grad`` may be overwritten."""
        raise NotImplementedError

    def _average(self, name: str, rows: slice | Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Change the rows of a running average by an in-place function, and return them; it begins at zero."""
        state = self.optimizer.state[self.weight]
        if state.get(name) is None:
            state[name] = torch.zeros_like(self.weight)
        changed = change(state[name][rows])
        if not isinstance(rows, slice):
            state[name][rows] = changed
        return changed


class InBackwardSGD(InBackwardUpdate):
    r"""SGD, in the backward pass; momentum and ``nesterov`` are 0 where the optimizer has none.

    $$v \leftarrow \mu v + g + \lambda w, \qquad w \leftarrow w - \eta v$$
    """

    unsupported = ("dampening", "maximize")

    def _move(self, rows: slice | Tensor, centers: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        if decay := group.get("weight_decay", 0):
            grad.add_(centers, alpha=decay)
        if momentum := group.get("momentum", 0):
            moved = self._average("momentum_buffer", rows, lambda velocity: velocity.mul_(momentum).add_(grad))
            grad = grad.add_(moved, alpha=momentum) if group.get("nesterov") else moved
        centers.add_(grad, alpha=-float(group["lr"]))


class InBackwardAdam(InBackwardUpdate):
    r"""Adam and AdamW, in the backward pass.

    With t the number of steps of a row, and decoupled weight decay (AdamW):
    $$m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2$$
    $$w \leftarrow (1 - \eta \lambda) w - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}$$

    A row that takes no part in a step is neither decayed nor counted, and its moments do not fade: each row moves as by
    AdamW over the steps that it took part in. ``step`` in the optimizer's state is torch's scalar until rows are
    sampled, then one number per row.
    """

    unsupported = ("maximize", "amsgrad", "differentiable")

    @torch.no_grad()
    def begin(self) -> Callable[[slice | Tensor, Tensor], None]:
        """Begin a step: count it, unless each row counts its own; returns `update`."""
        state = self.optimizer.state[self.weight]
        step = torch.as_tensor(state.get("step", 0.0), dtype=torch.float32)
        # A checkpoint's is on the CPU
        state["step"] = step + 1 if step.ndim == 0 else step.to(self.weight.device)
        return self.update

    def _move(self, rows: slice | Tensor, centers: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        (beta1, beta2), lr, decay = map(float, group["betas"]), float(group["lr"]), group["weight_decay"]
        if decay and group["decoupled_weight_decay"]:
            centers.mul_(1 - lr * decay)
        elif decay:
            grad.add_(centers, alpha=decay)
        mean = self._average("exp_avg", rows, lambda average: average.lerp_(grad, 1 - beta1))
        square = self._average(
            "exp_avg_sq", rows, lambda average: average.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        )
        steps = self._steps(rows)
        root = square.sqrt()
        if isinstance(steps, float):  # in torch's order, so that the rounding is the same
            denominator = root.div_((1 - beta2**steps) ** 0.5).add_(group["eps"])
            centers.addcdiv_(mean, denominator, value=-lr / (1 - beta1**steps))
        else:
            denominator = root.div_((1 - beta2**steps).sqrt_().to(root.dtype)).add_(group["eps"])
            centers.addcdiv_(mean * (lr / (1 - beta1**steps)).to(mean.dtype), denominator, value=-1)

    def _steps(self, rows: slice | Tensor) -> float | Tensor:
        """Return how many steps the rows have taken, this one included: one number, or (n, 1) float64."""
        state = self.optimizer.state[self.weight]
        if state["step"].ndim == 0:
            if isinstance(rows, slice):
                return float(state["step"])
            state["step"] = (state["step"] - 1).to(self.weight.device).repeat(self.weight.shape[0])
        state["step"][rows] += 1
        return state["step"][rows].to(pair_dtype(self.weight.device))[:, None]


def in_backward_update(optimizer: Optimizer, weight: nn.Parameter, rule: Rule = "optimizer") -> InBackwardUpdate:
    """Return the update of class centers inside the backward pass by an optimizer's rule, or by SGD.

    Args:
        optimizer: Holds the centers.
        weight: The class centers.
        rule: See `Rule`.

    Raises:
        ValueError: If the optimizer does not hold the centers, its rule is none of SGD, Adam and AdamW, or it has an
            option that the update does not.
    """
    if rule == "sgd" or isinstance(optimizer, SGD):
        return InBackwardSGD(optimizer, weight)
    if isinstance(optimizer, Adam):
        return InBackwardAdam(optimizer, weight)
    accepted = 'SGD, Adam or AdamW for an update in the backward pass, or the rule "sgd"'
    raise ValueError(expected("optimizer", type(optimizer).__name__, accepted))
