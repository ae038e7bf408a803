"""Cosines between embeddings and class centers."""

from typing import Any

import torch
from torch import Tensor

from arcface_pl.functional.precision import compute_dtype, full_precision, pair_dtype, tangent, unit_rows


class _Unit(torch.autograd.Function):
    """Rows of length one, differentiable any number of times; rows below ``MIN_NORM`` get no gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, dtype: torch.dtype) -> Tensor:
        unit, norms = unit_rows(rows, dtype)
        ctx.save_for_backward(rows, unit, norms)
        return unit

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows, unit, norms = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # What was saved has no graph: make both anew, for a second derivative
            unit = _Unit.apply(rows, unit.dtype)
            norms = (rows.to(unit.dtype) * unit).sum(dim=1, keepdim=True)
        return tangent(grad, unit, norms).to(rows.dtype), None


def cosine_similarity_matrix(embeddings: Tensor, weight: Tensor) -> Tensor:
    r"""Compute the cosine of the angle between every embedding and every class center.

    $$c_{ij} = \frac{x_i \cdot w_j}{\lVert x_i \rVert \lVert w_j \rVert}$$

    Computed in float32 or wider, whatever autocast says. A vector whose norm is below 1e-12 receives no gradient.
    Second derivatives are exact; `torch.func` and forward-mode differentiation raise an error.

    Args:
        embeddings: (B, D) floating point, of any length.
        weight: (C, D) floating point, class centers of any length.

    Returns:
        (B, C) in [-1, 1], float32, or float64 where an argument is.

    Example:
        >>> import torch
        >>> cosine_similarity_matrix(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, -2.0]]))
        tensor([[ 0.6000, -0.8000]])
    """
    dtype, wide = compute_dtype(embeddings, weight), pair_dtype(embeddings.device)
    with full_precision(embeddings.device):
        # Embeddings may have any length; centers stay within float32's range, and there may be millions
        cosine = _Unit.apply(embeddings, wide).to(dtype) @ _Unit.apply(weight, dtype).T
        # Rounding takes a cosine one step past 1. Only the value is clamped: the gradient of `clamp` at its bound
        # changed between releases of torch.
        return cosine + (cosine.clamp(-1, 1) - cosine).detach()


def target_cosine_sine(
    embeddings: Tensor, weight: Tensor, labels: Tensor, sub_centers: int = 1
) -> tuple[Tensor, Tensor]:
    """Compute cos and sin of the angle between each embedding and its target's nearest center, exact near 0 and pi.

    Args:
        embeddings: (B, D) floating point, of any length.
        weight: (C * K, D) floating point, class centers of any length, a class's K centers adjacent.
        labels: (B,) int64 in [0, C).
        sub_centers: K.

    Returns:
        Two (B,) tensors, float64 (float32 on MPS, which has no float64).
    """
    wide = pair_dtype(embeddings.device)
    unit = _Unit.apply(embeddings, wide)
    if sub_centers == 1:
        return _cosine_sine(unit, _Unit.apply(weight[labels], wide))
    rows = labels[:, None] * sub_centers + torch.arange(sub_centers, device=labels.device)
    centers = _Unit.apply(weight[rows.flatten()], wide).unflatten(0, rows.shape)
    nearest = (centers.detach() @ unit.detach()[:, :, None]).argmax(dim=1)
    return _cosine_sine(unit, centers.gather(1, nearest[:, :, None].expand(-1, 1, unit.shape[1])).squeeze(1))


def _cosine_sine(unit: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the angle between rows of length one: these products keep small angles exact."""
    apart = torch.linalg.vector_norm(unit - target, dim=1)
    together = torch.linalg.vector_norm(unit + target, dim=1)
    return (together - apart) * (together + apart) / 4, apart * together / 2
