"""What every metric asks of its inputs, and the one error message for each way of getting it wrong."""

import torch
from torch import Tensor

__all__ = ["check_embeddings", "check_fraction", "check_labels", "check_scores"]


def check_scores(name: str, scores: Tensor) -> Tensor:
    """Return the scores as float32 or float64, or say what is wrong with them.

    Half precision and integers convert without loss (integers up to 2**53). NaN and infinity are refused: a NaN has no
    place in an order, and inf is the threshold that accepts nothing.
    """
    scores = _numbers(name, scores)
    if scores.ndim != 1:
        raise ValueError(f"{name} must be a 1-D tensor of scores, got shape {tuple(scores.shape)}")
    if scores.numel() == 0:
        raise ValueError(f"{name} is empty; at least one score is needed")
    return scores


def check_embeddings(name: str, embeddings: Tensor) -> Tensor:
    """Return the embeddings as float32 or float64 of shape (N, D), or say what is wrong with them."""
    embeddings = _numbers(name, embeddings)
    if embeddings.ndim != 2:
        raise ValueError(f"{name} must have shape (N, D), got {tuple(embeddings.shape)}")
    if embeddings.numel() == 0:
        raise ValueError(f"{name} is empty: its shape is {tuple(embeddings.shape)}")
    return embeddings


def check_labels(name: str, labels: Tensor, num_labels: int) -> Tensor:
    """Return the labels as int64 of shape (num_labels,), or say what is wrong with them."""
    if not isinstance(labels, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(labels).__name__}")
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"{name} must have an integer dtype, got {labels.dtype}")
    if labels.shape != (num_labels,):
        raise ValueError(f"{name} must have shape ({num_labels},), one label an embedding, got {tuple(labels.shape)}")
    return _exact(labels).long()


def check_fraction(name: str, value: float) -> float:
    """Return the value as a float in [0, 1], or say what is wrong with it."""
    if not 0 <= value <= 1:  # also refuses NaN
        raise ValueError(f"{name} must lie in [0, 1], got {value}")
    return float(value)


def _numbers(name: str, tensor: Tensor) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must hold real numbers, got {tensor.dtype}")
    tensor = _exact(tensor.detach())
    if not tensor.is_floating_point():
        return tensor.double()
    num_bad = tensor.numel() - int(tensor.isfinite().sum())
    if num_bad:
        raise ValueError(f"{name} must be finite, got {num_bad} NaN or infinite of {tensor.numel()} values")
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _exact(tensor: Tensor) -> Tensor:
    # Apple's MPS has no float64, and rates and angles need it.
    return tensor.cpu() if tensor.device.type == "mps" else tensor
