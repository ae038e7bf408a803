"""What every loss of the family is made of: the angle to the target class and the log-sum-exp of all other classes."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arcface_pl.functional.derivatives import first_order_only
from arcface_pl.functional.non_target import NonTarget, Reweighting, non_target_backward, non_target_forward
from arcface_pl.functional.precision import compute_dtype, full_precision, pair_dtype, unit_rows
from arcface_pl.functional.precision import tangent as _tangent

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


def angular_terms(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    non_target: NonTarget,
    reweighting: Reweighting | None = None,
    *,
    with_sum: bool,
) -> AngularTerms:
    """Compute the angle to the target and the log-sum-exp of the other classes, with exact first derivatives of both.

    Args:
        embeddings: (B, D) floating point.
        weight: (C * K, D) floating point, a class's centers adjacent.
        labels: (B,) int64 in [0, C), already checked.
        non_target: Scale, sub-centers and chunk size; without a chunk size a small problem is kept whole.
        reweighting: CurricularFace's; no gradient flows into it.
        with_sum: Whether ``non_target_sum`` is needed.
    """
    whole = non_target.chunk_size is None and embeddings.shape[0] * weight.shape[0] <= WHOLE_CELLS
    with full_precision(embeddings.device):
        apply = _WholeTerms.apply if whole else _apply_chunked
        return AngularTerms(*apply(embeddings, weight, labels, *(reweighting or (None, None)), non_target, with_sum))


@torch.compiler.disable  # a loop over a thousand chunks is not to be unrolled into a graph
def _apply_chunked(embeddings: Tensor, weight: Tensor, *args: Any) -> tuple[Tensor | None, ...]:
    keeps = torch.is_grad_enabled() and weight.requires_grad
    return _ChunkedTerms.apply(embeddings, weight, *args, keeps)


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


class _WholeTerms(torch.autograd.Function):
    """All cosines at once in float64: for small problems exactness costs nothing."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        threshold: Tensor | None,
        t: Tensor | None,
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
        return grad_embeddings, grad_weight, None, None, None, None, None


class _ChunkedTerms(torch.autograd.Function):
    """The target in float64, all other classes in chunks: no batch x classes tensor is made."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        threshold: Tensor | None,
        t: Tensor | None,
        non_target: NonTarget,
        with_sum: bool,
        keeps: bool,
    ) -> tuple[Tensor | None, ...]:
        dtype, wide = compute_dtype(embeddings, weight), pair_dtype(embeddings.device)
        unit, norms = unit_rows(embeddings, wide)
        rows, centers, center_norms = target_centers(unit, weight, labels, non_target.sub_centers)
        cosine, sine = (unit * centers).sum(dim=1), sine_between(unit, centers)
        reweighting = None if threshold is None or t is None else Reweighting(threshold.to(dtype), t.to(dtype))
        narrow = unit.to(dtype)
        ctx.kept = non_target.logits_buffer(narrow, weight, reweighting) if keeps else None
        lse, logit_sum, lengths = non_target_forward(
            narrow, weight, labels, non_target, reweighting=reweighting, with_sum=with_sum, keep=ctx.kept
        )
        ctx.save_for_backward(
            unit, norms, weight, lengths, rows, centers, center_norms, labels, cosine, sine, lse, *(reweighting or ())
        )
        ctx.non_target, ctx.dtypes = non_target, (embeddings.dtype, dtype)
        return cosine, sine, lse, logit_sum

    @staticmethod
    @first_order_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_cosine, grad_sine, grad_lse, grad_sum = grads
        unit, norms, weight, lengths, rows, centers, center_norms, labels, cosine, sine, lse, *reweighting = (
            ctx.saved_tensors
        )
        coefficient = target_coefficient(cosine, sine, grad_cosine, grad_sine)[:, None]
        kept, ctx.kept = ctx.kept, None  # becomes the gradient; a second backward pass computes the logits again
        grad_embeddings = None
        with full_precision(unit.device):
            from_others, grad_weight, _ = non_target_backward(
                unit.to(ctx.dtypes[1]),
                weight,
                labels,
                ctx.non_target,
                lengths,
                lse,
                grad_lse,
                grad_sum,
                ctx.needs_input_grad[:2],
                reweighting=Reweighting(*reweighting) if reweighting else None,
                kept=kept,
            )
        if from_others is not None:
            grad_embeddings = _tangent(from_others + coefficient * centers, unit, norms).to(ctx.dtypes[0])
        if grad_weight is not None:
            grad_weight.index_add_(0, rows, _tangent(coefficient * unit, centers, center_norms).to(weight.dtype))
        return grad_embeddings, grad_weight, None, None, None, None, None, None


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
