"""The precision of each part of a loss, and vectors of length one."""

import contextlib
import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor

MIN_NORM = 1e-12
"""Below this norm a vector has a direction but passes no gradient: 1 / norm would swamp every other sample."""


def compute_dtype(embeddings: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype of batch x classes work: at least float32, since bfloat16 rounds a cosine of 0.998 to 1."""
    return torch.promote_types(torch.promote_types(embeddings.dtype, weight.dtype), torch.float32)


def pair_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of work on (sample, target) pairs: float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which autocast does not touch matrix products."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def norm_floor(dtype: torch.dtype) -> float:
    """Return the smallest norm to divide by: the squares of anything shorter underflow in this dtype."""
    return math.sqrt(torch.finfo(dtype).tiny)


def unit_rows(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return rows of length one in ``dtype`` and their norms before, (n, 1); a row of zeros stays zero."""
    rows = rows.to(dtype)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norms.clamp_min(norm_floor(dtype)), norms


def inverse_norms(norms: Tensor) -> Tensor:
    """Return 1 / norm, or 0 for a norm below ``MIN_NORM``: the factor of every gradient through a normalization."""
    return norms.masked_fill(norms < MIN_NORM, math.inf).reciprocal()


def tangent(grad: Tensor, unit: Tensor, norms: Tensor) -> Tensor:
    """Return the gradient of rows of any length from that of the rows of length one."""
    return torch.addcmul(grad, (grad * unit).sum(dim=1, keepdim=True), unit, value=-1) * inverse_norms(norms)
