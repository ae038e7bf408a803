"""One optimizer for backbone and class centers, each in a parameter group of its own."""

from collections.abc import Callable, Iterable, Mapping
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
    extra: Mapping[str, nn.Module | None] | None = None,
) -> Optimizer:
    """Make the optimizer, with the parameter groups "backbone", "head", and those of ``extra``, in this order.

    Args:
        backbone: The network.
        head: Holds the class centers.
        make: Makes the optimizer from the groups.
        head_lr: Peak learning rate of the class centers, and of the parameters of extra losses, which are centers in
            most; None for the optimizer's.
        backbone_lr_factor: The backbone's peak rate as a multiple of the optimizer's; None for 1.
        extra: Further modules by the name of their group, such as "extra_losses"; one without parameters gets none.
    """
    groups: list[dict[str, Any]] = [{"params": list(backbone.parameters()), "name": "backbone"}]
    groups += [{"params": list(head.parameters()), "name": "head"}]
    for name, module in (extra or {}).items():
        if module is not None and (weights := list(module.parameters())):
            groups += [{"params": weights, "name": name}]
    for group in groups if head_lr is not None else ():
        if group["name"] in ("head", "extra_losses"):
            group["lr"] = head_lr
    optimizer = make(groups)
    if backbone_lr_factor is not None:
        optimizer.param_groups[0]["lr"] *= backbone_lr_factor
    return optimizer
