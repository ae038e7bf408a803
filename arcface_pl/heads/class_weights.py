"""Weights of the classes in the loss."""

from typing import Literal

import torch
from torch import Tensor

from arcface_pl.errors import expected
from arcface_pl.functional.checks import check_choice, check_number

_LARGEST_WEIGHT = 1e12  # whose product with any loss is far from float32's largest number
ClassWeights = Literal["equal", "balanced"] | list[float]


def first_weights(class_weights: ClassWeights, num_classes: int) -> Tensor | None:
    """Return the first weights of the classes, (C,) float32, or None for equal ones."""
    if isinstance(class_weights, str):
        check_choice("class_weights", class_weights, ("equal", "balanced"))
        return None if class_weights == "equal" else torch.ones(num_classes, dtype=torch.float32)
    if not isinstance(class_weights, list | tuple):
        raise ValueError(expected("class_weights", class_weights, "'equal', 'balanced', or a list of numbers"))
    if len(class_weights) != num_classes:
        raise ValueError(
            expected("class_weights", f"{len(class_weights)} numbers", f"one for each class, {num_classes}")
        )
    for number, weight in enumerate(class_weights):
        check_number(f"class_weights[{number}]", weight, low=0, high=_LARGEST_WEIGHT)
    weights = torch.tensor(class_weights, dtype=torch.float32)
    if not bool(weights.any()):
        raise ValueError(expected("class_weights", "zeros only", "at least one number above 0, for something to learn"))
    return weights
