"""Checks of what every metric is given, with one error message per mistake."""

from typing import Any

import torch
from torch import Tensor


def check(holds: bool, name: str, got: Any, accepted: str) -> None:
    """Raise ValueError in the package's wording unless ``holds``; ``got`` is a value or describes one."""
    if not holds:
        raise ValueError(f"{name}: got {got}; expected {accepted}")


def check_scores(name: str, scores: Tensor) -> Tensor:
    """Return scores as float32 or float64 of shape (N,), N >= 1.

    Half precision and integers up to 2**53 convert exactly. NaN has no place in an order, and inf is the threshold that
    accepts nothing: both are refused.
    """
    scores = _numbers(name, scores)
    check(scores.ndim == 1 and len(scores) > 0, name, tuple(scores.shape), "shape (N,) with at least one score")
    return scores


def check_embeddings(name: str, embeddings: Tensor) -> Tensor:
    """Return embeddings as float32 or float64 of shape (N, D), N and D >= 1."""
    embeddings = _numbers(name, embeddings)
    fits = embeddings.ndim == 2 and embeddings.numel() > 0
    check(fits, name, tuple(embeddings.shape), "shape (N, D) with at least one row and column")
    return embeddings


def check_same_width(name: str, embeddings: Tensor, width: int) -> None:
    """Refuse embeddings (N, D) whose D is not ``width``."""
    check(embeddings.shape[1] == width, name, tuple(embeddings.shape), f"shape (N, {width}), as wide as embeddings")


def check_labels(name: str, labels: Tensor, num_labels: int) -> Tensor:
    """Return labels as int64 of shape (num_labels,)."""
    accepted = f"an integer tensor of shape ({num_labels},)"
    check(isinstance(labels, Tensor), name, type(labels).__name__, accepted)
    is_integer = not (labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex())
    check(is_integer, name, labels.dtype, accepted)
    check(labels.shape == (num_labels,), name, tuple(labels.shape), accepted)
    return _exact(labels).long()


def check_fraction(name: str, value: float) -> float:
    """Return the value as a float in [0, 1]."""
    check(0 <= value <= 1, name, value, "a number in [0, 1]")  # refuses NaN as well
    return float(value)


def _numbers(name: str, tensor: Tensor) -> Tensor:
    accepted = "a tensor of finite real numbers"
    check(isinstance(tensor, Tensor), name, type(tensor).__name__, accepted)
    check(not tensor.is_complex() and tensor.dtype != torch.bool, name, tensor.dtype, accepted)
    tensor = _exact(tensor.detach())
    if not tensor.is_floating_point():
        return tensor.double()
    num_bad = tensor.numel() - int(tensor.isfinite().sum())
    check(not num_bad, name, f"{num_bad} NaN or infinite of {tensor.numel()} values", accepted)
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _exact(tensor: Tensor) -> Tensor:
    # Rates and angles need float64, which MPS lacks
    return tensor.cpu() if tensor.device.type == "mps" else tensor
