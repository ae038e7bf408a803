"""The margin-free, target-free part of the loss, a chunk of classes at a time.

Nothing here knows autograd: these are the two loops that the autograd functions, on one device or on many, are made of.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from arcface_pl.functional._precision import inverse_norms, pair_dtype

UNSHIFTED_SCALE = 64.0
"""Up to this scale exp(scale * cosine) and its sum over 1e9 classes are float32 numbers without a shift."""

CPU_CHUNK = 1024
GPU_CHUNK_CELLS = 1 << 24


def choose_chunk(batch: int, device: torch.device, sub_centers: int) -> int:
    """Return how many classes to take at a time."""
    if device.type == "cpu":
        return max(1, CPU_CHUNK // sub_centers)
    return max(1, GPU_CHUNK_CELLS // (batch * sub_centers))


def _chunks(weight: Tensor, dtype: torch.dtype, sub_centers: int, size: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the first class of each chunk, its centers at length one, and their norms (n, 1)."""
    rows = size * sub_centers
    for start in range(0, weight.shape[0], rows):
        chunk = weight[start : start + rows].to(dtype)
        norms = torch.linalg.vector_norm(chunk, dim=1, keepdim=True)
        yield start // sub_centers, chunk / norms.clamp_min(torch.finfo(dtype).tiny), norms


def _without_own(logits: Tensor, labels: Tensor, start: int) -> Tensor:
    """Put -inf at each sample's own class, where it is in this chunk; without waiting for the device."""
    column = labels - start
    inside = (column >= 0) & (column < logits.shape[1])
    column = column.clamp(0, logits.shape[1] - 1)[:, None]
    own = torch.where(inside[:, None], -math.inf, logits.gather(1, column))
    return logits.scatter_(1, column, own)


def rest_forward(
    unit: Tensor, weight: Tensor, labels: Tensor, scale: float, sub_centers: int = 1, chunk_size: int | None = None
) -> Tensor:
    """Return log sum over j != label of exp(scale * cosine_j), (B,).

    Args:
        unit: (B, D) embeddings of length one, float32 or float64.
        weight: (C * K, D) class centers of any length.
        labels: (B,) int64 relative to the first of these classes; a label outside [0, C) excludes nothing.
        scale: Factor of the cosines.
        sub_centers: K.
        chunk_size: Classes at a time.
    """
    chunk_size = chunk_size or choose_chunk(unit.shape[0], unit.device, sub_centers)
    scaled = unit * scale
    total = unit.new_zeros(unit.shape[0])
    shift = None if scale <= UNSHIFTED_SCALE else torch.full_like(total, -math.inf)
    for start, centers, _ in _chunks(weight, unit.dtype, sub_centers, chunk_size):
        logits = scaled @ centers.T
        if sub_centers > 1:
            logits = logits.unflatten(1, (-1, sub_centers)).amax(dim=2)
        logits = _without_own(logits, labels, start)
        if shift is None:
            total += logits.exp_().sum(dim=1)
        else:
            lowest = torch.finfo(shift.dtype).min
            largest = torch.maximum(shift, logits.amax(dim=1)).clamp_min_(lowest)
            total = total * (shift - largest).exp() + (logits - largest[:, None]).exp_().sum(dim=1)
            shift = largest
    return total.to(pair_dtype(total.device)).log() + (0 if shift is None else shift)


def rest_backward(
    unit: Tensor,
    weight: Tensor,
    labels: Tensor,
    rest: Tensor,
    grad_rest: Tensor,
    needs_grad: Sequence[bool],
    scale: float,
    sub_centers: int = 1,
    chunk_size: int | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradient of the unit embeddings (tangent not yet taken) and of the centers, as asked for."""
    chunk_size = chunk_size or choose_chunk(unit.shape[0], unit.device, sub_centers)
    scaled = unit * scale
    grad_unit = torch.zeros_like(unit) if needs_grad[0] else None
    grad_weight = torch.empty_like(weight) if needs_grad[1] else None
    shift = rest.clamp_min(torch.finfo(unit.dtype).min).to(unit.dtype)[:, None]
    factor = (grad_rest * scale).to(unit.dtype)[:, None]
    weighted = unit * factor
    for start, centers, norms in _chunks(weight, unit.dtype, sub_centers, chunk_size):
        logits = scaled @ centers.T
        best = None
        if sub_centers > 1:
            logits, best = logits.unflatten(1, (-1, sub_centers)).max(dim=2)
        share = _without_own(logits, labels, start).sub_(shift).exp_()
        if best is not None:
            spread = share.new_zeros(*best.shape, sub_centers)
            share = spread.scatter_(2, best[:, :, None], share[:, :, None]).flatten(1)
        if grad_unit is not None:
            grad_unit.addmm_(share, centers)
        if grad_weight is not None:
            grad = share.T @ weighted
            grad -= (grad * centers).sum(dim=1, keepdim=True) * centers
            rows = slice(start * sub_centers, start * sub_centers + centers.shape[0])
            grad_weight[rows] = grad.mul_(inverse_norms(norms))
    return (None if grad_unit is None else grad_unit * factor), grad_weight
