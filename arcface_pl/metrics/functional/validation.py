"""Checks of what every metric is given, with one error message per mistake."""

import numbers
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def check(holds: bool, name: str, got: Any, accepted: str) -> None:
    """Raise ValueError in the package's wording unless ``holds``; ``got`` is a value or describes one."""
    if not holds:
        raise ValueError(f"{name}: got {got}; expected {accepted}")


def check_scores(name: str, scores: Tensor, rows: int = 1) -> Tensor:
    """Return scores as float32 or float64 of shape (N,), N >= ``rows``.

    Half precision and integers up to 2**53 convert exactly. NaN has no place in an order, and inf is the threshold that
    accepts nothing: both are refused.
    """
    scores = _numbers(name, scores)
    fits = scores.ndim == 1 and len(scores) >= rows
    check(fits, name, tuple(scores.shape), "shape (N,) with at least one score" if rows else "shape (P,)")
    return scores


def check_embeddings(name: str, embeddings: Tensor, rows: int = 1) -> Tensor:
    """Return embeddings as float32 or float64 of shape (N, D), N >= ``rows`` and D >= 1."""
    embeddings = _numbers(name, embeddings)
    fits = embeddings.ndim == 2 and len(embeddings) >= rows and embeddings.shape[1] > 0
    accepted = "shape (N, D) with at least one row and column" if rows else "shape (B, D) with at least one column"
    check(fits, name, tuple(embeddings.shape), accepted)
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


def check_fraction(name: str, value: Any) -> float:
    """Return the value as a float in [0, 1]."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    check(is_number and 0 <= value <= 1, name, repr(value), "a number in [0, 1]")  # refuses NaN as well
    return float(value)


def check_whole(name: str, value: Any, low: int = 1, high: int | None = None, accepted: str = "") -> int:
    """Return the value as an int in [low, high]; ``accepted`` says so in other words."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    fits = is_whole and low <= value and (high is None or value <= high)
    check(fits, name, repr(value), accepted or f"a whole number of at least {low}")
    return int(value)


def check_list(name: str, values: Any, accepted: str) -> list[Any]:
    """Return the values of any iterable, numpy array or tensor of one dimension as a list; text is not a list."""
    values = values.tolist() if hasattr(values, "tolist") else values
    check(isinstance(values, Iterable) and not isinstance(values, str | bytes), name, repr(values), accepted)
    return list(values)


def check_genuine(is_genuine: Tensor, num_pairs: int) -> Tensor:
    """Return which of ``num_pairs`` pairs are genuine, bool or integers 0 and 1, as int64."""
    if isinstance(is_genuine, Tensor) and is_genuine.dtype == torch.bool:
        is_genuine = is_genuine.long()
    genuine = check_labels("is_genuine", is_genuine, num_pairs)
    is_binary = bool(((genuine == 0) | (genuine == 1)).all())
    check(is_binary, "is_genuine", genuine.unique().tolist()[:3], "booleans, or integers 0 and 1")
    return genuine


def _numbers(name: str, tensor: Tensor) -> Tensor:
    accepted = "a tensor of finite real numbers"
    check(isinstance(tensor, Tensor), name, type(tensor).__name__, accepted)
    check(not tensor.is_complex() and tensor.dtype != torch.bool, name, tensor.dtype, accepted)
    check(tensor.layout == torch.strided, name, tensor.layout, accepted)
    tensor = _exact(tensor.detach())
    if tensor.is_floating_point() and tensor.itemsize == 1:  # torch computes nothing in 8 bits
        tensor = tensor.float()
    if not tensor.is_floating_point():
        return tensor.double()
    num_bad = tensor.numel() - int(tensor.isfinite().sum())
    check(not num_bad, name, f"{num_bad} NaN or infinite of {tensor.numel()} values", accepted)
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _exact(tensor: Tensor) -> Tensor:
    # Rates and angles need float64, which MPS lacks
    return tensor.cpu() if tensor.device.type == "mps" else tensor
