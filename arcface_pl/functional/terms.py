"""The target angle and the log-sum-exp of the other classes, which every loss is made of, for a few classes at once."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arcface_pl.functional.derivatives import first_order_only
from arcface_pl.functional.precision import full_precision, pair_dtype, unit_rows
from arcface_pl.functional.precision import tangent as _tangent
from arcface_pl.functional.problem import NonTarget

WHOLE_CELLS = 1 << 17
"""Up to this many cosines (batch x centers) all of them are kept, in float64; above, classes are taken in chunks."""


class AngularTerms(NamedTuple):
    """What a margin loss needs to know about each sample, (B,) each, float64 (float32 on MPS)."""

    cosine: Tensor
    """cos(theta) to the target class."""
    sine: Tensor
    """sin(theta) to the target class, exact to rounding at every angle."""
    non_target: Tensor
    """Log of the sum of exp(logit) over the non-target classes; -inf where there is none."""
    non_target_sum: Tensor | None
    """Sum of the non-target logits, where label smoothing asks for it."""


def sine_between(unit: Tensor, centers: Tensor) -> Tensor:
    """Return the sine of the angle between rows of unit vectors: this product is exact near 0 and pi."""
    return torch.linalg.vector_norm(unit - centers, dim=1) * torch.linalg.vector_norm(unit + centers, dim=1) / 2


def target_coefficient(cosine: Tensor, sine: Tensor, grad_cosine: Tensor, grad_sine: Tensor) -> Tensor:
    """Return the factor of the target center in the gradient of the unit embedding, before its tangent is taken.

    The gradient of theta is a unit vector: minus the center's tangent over sin(theta). Below the floor, where the
    tangent is rounding only, it fades to 0.
    """
    floor = torch.finfo(sine.dtype).eps ** (2 / 3)
    return (sine * grad_cosine - cosine * grad_sine) / sine.clamp_min(floor)


class WholeTerms(torch.autograd.Function):
    """All cosines at once in float64: for small problems exactness costs nothing."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        threshold: Tensor | None,
        t: Tensor | None,
        scale: Tensor | None,
        non_target: NonTarget,
        with_sum: bool,
    ) -> tuple[Tensor | None, ...]:
        wide = pair_dtype(embeddings.device)
        unit, norms = unit_rows(embeddings, wide)
        centers, center_norms = unit_rows(weight, wide)
        column, rows = labels[:, None], labels
        logits, best, slope = unit @ centers.T, None, None
        if non_target.sub_centers > 1:
            logits, best = logits.unflatten(1, (-1, non_target.sub_centers)).max(dim=2)
            rows = labels * non_target.sub_centers + best.gather(1, column).squeeze(1)
        cosine, sine = logits.gather(1, column).squeeze(1), sine_between(unit, centers[rows])
        if threshold is not None and t is not None:
            is_hard = logits > threshold[:, None]
            slope = torch.where(is_hard, 2 * logits + t, 1)
            logits = torch.where(is_hard, logits * (logits + t), logits)
        logits.mul_(non_target.scale)
        logit_sum = logits.scatter(1, column, 0).sum(dim=1) if with_sum else None
        lse = logits.scatter_(1, column, -math.inf).logsumexp(dim=1)
        ctx.save_for_backward(unit, norms, centers, center_norms, column, logits, cosine, sine, lse, best, slope)
        ctx.scale, ctx.dtypes = non_target.scale, (embeddings.dtype, weight.dtype)
        return cosine, sine, lse, logit_sum

    @staticmethod
    @first_order_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_cosine, grad_sine, grad_lse, grad_sum = grads
        unit, norms, centers, center_norms, column, logits, cosine, sine, lse, best, slope = ctx.saved_tensors
        # With a single class the log-sum-exp is -inf, and -inf - -inf would be NaN
        floor = torch.finfo(lse.dtype).min
        slopes = (logits - lse.clamp_min(floor)[:, None]).exp_().mul_((ctx.scale * grad_lse)[:, None])
        if grad_sum is not None:
            slopes += (ctx.scale * grad_sum)[:, None]
        grad_scale = None
        if ctx.needs_input_grad[5]:
            grad_scale = (slopes * logits.scatter(1, column, 0)).sum() / ctx.scale**2
        if slope is not None:
            slopes *= slope
        slopes.scatter_(1, column, target_coefficient(cosine, sine, grad_cosine, grad_sine)[:, None])
        if best is not None:
            spread = slopes.new_zeros(*best.shape, centers.shape[0] // best.shape[1])
            slopes = spread.scatter_(2, best[:, :, None], slopes[:, :, None]).flatten(1)
        grad_embeddings = grad_weight = None
        with full_precision(unit.device):
            if ctx.needs_input_grad[0]:
                grad_embeddings = _tangent(slopes @ centers, unit, norms).to(ctx.dtypes[0])
            if ctx.needs_input_grad[1]:
                grad_weight = _tangent(slopes.T @ unit, centers, center_norms).to(ctx.dtypes[1])
        return grad_embeddings, grad_weight, None, None, None, grad_scale, None, None


def target_centers(unit: Tensor, weight: Tensor, labels: Tensor, sub_centers: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the row of each sample's nearest target center, that center at length one, and its norm (B, 1).

    Args:
        unit: (B, D) embeddings of length one, in the dtype that is wanted back.
        weight: (C * K, D) class centers of any length.
        labels: (B,) int64 in [0, C).
        sub_centers: K.
    """
    if sub_centers == 1:
        return labels, *unit_rows(weight[labels], unit.dtype)
    rows = labels[:, None] * sub_centers + torch.arange(sub_centers, device=labels.device)
    centers, norms = unit_rows(weight[rows.flatten()], unit.dtype)
    centers, norms = centers.unflatten(0, rows.shape), norms.unflatten(0, rows.shape)
    best = (centers @ unit[:, :, None]).argmax(dim=1).squeeze(1)
    index = torch.arange(len(labels), device=labels.device), best
    return rows[index], centers[index], norms[index]
