"""What every loss of the family is made of: the angle to the own class, and all other classes taken together."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from arcface_pl.functional._chunks import Hard, Others, others_backward, others_forward
from arcface_pl.functional.precision import compute_dtype, full_precision, pair_dtype, unit_rows
from arcface_pl.functional.precision import tangent as _tangent

WHOLE_CELLS = 1 << 17
"""Up to this many cosines (batch x centers) all of them are kept, in float64; above, classes are taken in chunks."""


class AngularTerms(NamedTuple):
    """What a margin loss needs to know about each sample, (B,) each, float64 (float32 on MPS)."""

    cosine: Tensor
    """cos(theta) to the own class."""
    sine: Tensor
    """sin(theta) to the own class, exact to rounding at every angle."""
    rest: Tensor
    """Log of the sum of exp(logit) over the other classes; -inf where there is none."""
    rest_sum: Tensor | None
    """Sum of the logits of the other classes, where label smoothing asks for it."""


def angular_terms(
    embeddings: Tensor, weight: Tensor, labels: Tensor, others: Others, hard: Hard | None = None, *, with_sum: bool
) -> AngularTerms:
    """Compute the angle to the own class and what the other classes add up to, with exact gradients of both.

    Args:
        embeddings: (B, D) floating point.
        weight: (C * K, D) floating point, a class's centers adjacent.
        labels: (B,) int64 in [0, C), already checked.
        others: Scale, sub-centers and chunk size; without a chunk size a small problem is kept whole.
        hard: CurricularFace's re-weighting; no gradient flows into it.
        with_sum: Whether ``rest_sum`` is needed.
    """
    threshold, t = (None, None) if hard is None else hard
    whole = others.chunk_size is None and embeddings.shape[0] * weight.shape[0] <= WHOLE_CELLS
    with full_precision(embeddings.device):
        apply = _WholeTerms.apply if whole else _apply_chunked
        return AngularTerms(*apply(embeddings, weight, labels, threshold, t, others, with_sum))


@torch.compiler.disable  # a loop over a thousand chunks is nothing to unroll into a graph
def _apply_chunked(*args: Any) -> tuple[Tensor | None, ...]:
    return _ChunkedTerms.apply(*args)


def sine_between(unit: Tensor, centers: Tensor) -> Tensor:
    """Return the sine of the angle between rows of unit vectors: this product is exact near 0 and pi."""
    return torch.linalg.vector_norm(unit - centers, dim=1) * torch.linalg.vector_norm(unit + centers, dim=1) / 2


def own_coefficient(cosine: Tensor, sine: Tensor, grad_cosine: Tensor, grad_sine: Tensor) -> Tensor:
    """Return the factor of the own center in the gradient of the unit embedding, before its tangent is taken.

    The gradient of theta is a unit vector: minus the center's tangent over sin(theta). Below the floor, where the
    tangent is rounding only, it fades to nothing.
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
        others: Others,
        with_sum: bool,
    ) -> tuple[Tensor | None, ...]:
        wide = pair_dtype(embeddings.device)
        unit, norms = unit_rows(embeddings, wide)
        centers, center_norms = unit_rows(weight, wide)
        column, rows = labels[:, None], labels
        logits, best, slope = unit @ centers.T, None, None
        if others.sub_centers > 1:
            logits, best = logits.unflatten(1, (-1, others.sub_centers)).max(dim=2)
            rows = labels * others.sub_centers + best.gather(1, column).squeeze(1)
        cosine, sine = logits.gather(1, column).squeeze(1), sine_between(unit, centers[rows])
        if threshold is not None and t is not None:
            is_hard = logits > threshold[:, None]
            slope = torch.where(is_hard, 2 * logits + t, 1)
            logits = torch.where(is_hard, logits * (logits + t), logits)
        logits.mul_(others.scale)
        rest_sum = logits.scatter(1, column, 0).sum(dim=1) if with_sum else None
        rest = logits.scatter_(1, column, -math.inf).logsumexp(dim=1)
        ctx.save_for_backward(unit, norms, centers, center_norms, column, logits, cosine, sine, rest, best, slope)
        ctx.scale, ctx.dtypes = others.scale, (embeddings.dtype, weight.dtype)
        return cosine, sine, rest, rest_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_cosine, grad_sine, grad_rest, grad_sum = grads
        unit, norms, centers, center_norms, column, logits, cosine, sine, rest, best, slope = ctx.saved_tensors
        # With a single class rest is -inf, and -inf - -inf would be nan
        floor = torch.finfo(rest.dtype).min
        share = (logits - rest.clamp_min(floor)[:, None]).exp_().mul_((ctx.scale * grad_rest)[:, None])
        if grad_sum is not None:
            share += (ctx.scale * grad_sum)[:, None]
        if slope is not None:
            share *= slope
        share.scatter_(1, column, own_coefficient(cosine, sine, grad_cosine, grad_sine)[:, None])
        if best is not None:
            spread = share.new_zeros(*best.shape, centers.shape[0] // best.shape[1])
            share = spread.scatter_(2, best[:, :, None], share[:, :, None]).flatten(1)
        grad_embeddings = grad_weight = None
        with full_precision(unit.device):
            if ctx.needs_input_grad[0]:
                grad_embeddings = _tangent(share @ centers, unit, norms).to(ctx.dtypes[0])
            if ctx.needs_input_grad[1]:
                grad_weight = _tangent(share.T @ unit, centers, center_norms).to(ctx.dtypes[1])
        return grad_embeddings, grad_weight, None, None, None, None, None


class _ChunkedTerms(torch.autograd.Function):
    """The own class in float64, all others in chunks: no tensor of batch x classes is ever made."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        threshold: Tensor | None,
        t: Tensor | None,
        others: Others,
        with_sum: bool,
    ) -> tuple[Tensor | None, ...]:
        dtype, wide = compute_dtype(embeddings, weight), pair_dtype(embeddings.device)
        unit, norms = unit_rows(embeddings, wide)
        rows, centers, center_norms = own_centers(unit, weight, labels, others.sub_centers)
        cosine, sine = (unit * centers).sum(dim=1), sine_between(unit, centers)
        hard = None if threshold is None or t is None else Hard(threshold.to(dtype), t.to(dtype))
        rest, rest_sum, lengths = others_forward(unit.to(dtype), weight, labels, others, hard=hard, with_sum=with_sum)
        ctx.save_for_backward(
            unit, norms, weight, lengths, rows, centers, center_norms, labels, cosine, sine, rest, *(hard or ())
        )
        ctx.others, ctx.dtypes = others, (embeddings.dtype, dtype)
        return cosine, sine, rest, rest_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_cosine, grad_sine, grad_rest, grad_sum = grads
        unit, norms, weight, lengths, rows, centers, center_norms, labels, cosine, sine, rest, *hard = ctx.saved_tensors
        own = own_coefficient(cosine, sine, grad_cosine, grad_sine)[:, None]
        grad_embeddings = None
        with full_precision(unit.device):
            from_others, grad_weight, _ = others_backward(
                unit.to(ctx.dtypes[1]),
                weight,
                labels,
                ctx.others,
                lengths,
                rest,
                grad_rest,
                grad_sum,
                ctx.needs_input_grad[:2],
                hard=Hard(*hard) if hard else None,
            )
        if from_others is not None:
            grad_embeddings = _tangent(from_others + own * centers, unit, norms).to(ctx.dtypes[0])
        if grad_weight is not None:
            grad_weight.index_add_(0, rows, _tangent(own * unit, centers, center_norms).to(weight.dtype))
        return grad_embeddings, grad_weight, None, None, None, None, None


def own_centers(unit: Tensor, weight: Tensor, labels: Tensor, sub_centers: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the row of each sample's nearest own center, that center at length one, and its norm (B, 1).

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
