"""One optimiser for backbone and class centers, each in a parameter group of its own."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from arcface_pl.backbones import Backbone
from arcface_pl.heads import Head

__all__ = ["OptimizerCallable", "adam", "build_optimizer"]

OptimizerCallable = Callable[[Iterable], Optimizer]


def adam(params: Iterable) -> Optimizer:
    """Make Adam with a rate of 0.001, for whoever asks for nothing else."""
    return torch.optim.Adam(params, lr=1e-3)


def build_optimizer(backbone: Backbone, head: Head, make: OptimizerCallable, head_lr: float | None) -> Optimizer:
    """Make the optimiser.

    Args:
        backbone: The network, whose group comes first.
        head: The class centers, the second group.
        make: Makes the optimiser from the groups.
        head_lr: Peak learning rate of the class centers; None for the optimiser's own.

    Returns:
        The optimiser, its groups named "backbone" and "head".
    """
    centers: dict[str, Any] = {"params": list(head.parameters()), "name": "head"}
    if head_lr is not None:
        centers["lr"] = head_lr
    return make([{"params": list(backbone.parameters()), "name": "backbone"}, centers])
