"""One optimizer for backbone and class centers, each in a parameter group of its own."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from arcface_pl.heads import Head

OptimizerCallable = Callable[[Iterable], Optimizer]


def adam(params: Iterable) -> Optimizer:
    """Make Adam with a rate of 0.001, the default optimizer."""
    return torch.optim.Adam(params, lr=1e-3)


def build_optimizer(
    backbone: nn.Module,
    head: Head,
    make: OptimizerCallable,
    head_lr: float | None,
    backbone_lr_factor: float | None = None,
) -> Optimizer:
    """Make the optimizer, with the parameter groups "backbone" and "head", in this order.

    Args:
        backbone: The network.
        head: Holds the class centers.
        make: Makes the optimizer from the groups.
        head_lr: Peak learning rate of the class centers; None for the optimizer's.
        backbone_lr_factor: The backbone's peak rate as a multiple of the optimizer's; None for 1.
    """
    centers: dict[str, Any] = {"params": list(head.parameters()), "name": "head"}
    if head_lr is not None:
        centers["lr"] = head_lr
    optimizer = make([{"params": list(backbone.parameters()), "name": "backbone"}, centers])
    if backbone_lr_factor is not None:
        optimizer.param_groups[0]["lr"] *= backbone_lr_factor
    return optimizer
