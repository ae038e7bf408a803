"""The two things every loss of the family is made of: the angle to the own class, and all other classes together."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from arcface_pl.functional._chunks import rest_backward, rest_forward
from arcface_pl.functional._precision import compute_dtype, full_precision, inverse_norms, pair_dtype, unit_rows

SMALL = 1 << 17
"""Up to this many cosines (batch x centers) all of them are kept, in float64; above, classes are taken in chunks."""


class AngularTerms(NamedTuple):
    """What a margin loss needs to know about each sample, (B,) each, float64 (float32 on MPS)."""

    cosine: Tensor
    """cos(theta) to the own class."""
    sine: Tensor
    """sin(theta) to the own class, exact to rounding at every angle."""
    rest: Tensor
    """log of the sum over the other classes of exp(scale * cosine); -inf where there is no other class."""


def angular_terms(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    scale: float,
    sub_centers: int = 1,
    chunk_size: int | None = None,
) -> AngularTerms:
    """Compute the angle to the own class and the log-sum-exp of all the others, with exact gradients of both.

    Args:
        embeddings: (B, D) floating point.
        weight: (C * K, D) floating point, a class's centers adjacent.
        labels: (B,) int64 in [0, C), already checked.
        scale: Factor of the cosines.
        sub_centers: K; a class's cosine is the largest over its centers.
        chunk_size: Classes taken at a time; None chooses, and keeps a small problem whole.
    """
    with full_precision(embeddings.device):
        if chunk_size is None and embeddings.shape[0] * weight.shape[0] <= SMALL:
            return AngularTerms(*_WholeTerms.apply(embeddings, weight, labels, scale, sub_centers))
        return AngularTerms(*_chunked_terms(embeddings, weight, labels, scale, sub_centers, chunk_size))


@torch.compiler.disable  # a loop over a thousand chunks is nothing to unroll into a graph
def _chunked_terms(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _ChunkedTerms.apply(*args)


def _pair(unit: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the angle between rows of unit vectors; the products keep small angles exact."""
    apart = torch.linalg.vector_norm(unit - centers, dim=1)
    together = torch.linalg.vector_norm(unit + centers, dim=1)
    return (together - apart) * (together + apart) / 4, apart * together / 2


def _pair_coefficient(cosine: Tensor, sine: Tensor, grad_cosine: Tensor, grad_sine: Tensor) -> Tensor:
    """Return the factor of the own center in the gradient of the unit embedding, before its tangent is taken.

    d theta / d unit is a unit vector, minus the center's tangent over sin(theta). Below the floor, where the tangent is
    rounding only, it fades to nothing.
    """
    floor = torch.finfo(sine.dtype).eps ** (2 / 3)
    return (sine * grad_cosine - cosine * grad_sine) / sine.clamp_min(floor)


def _tangent(grad: Tensor, unit: Tensor, norms: Tensor) -> Tensor:
    """Return the gradient of unnormalised rows from that of the unit rows."""
    return (grad - (grad * unit).sum(dim=1, keepdim=True) * unit) * inverse_norms(norms)


class _WholeTerms(torch.autograd.Function):
    """All cosines at once in float64: for small problems exactness costs nothing."""

    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, weight: Tensor, labels: Tensor, scale: float, sub_centers: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = pair_dtype(embeddings.device)
        unit, norms = unit_rows(embeddings, wide)
        centers, center_norms = unit_rows(weight, wide)
        cosines = unit @ centers.T
        columns = labels[:, None]
        rows = labels
        best = None
        if sub_centers > 1:
            cosines, best = cosines.unflatten(1, (-1, sub_centers)).max(dim=2)
            rows = labels * sub_centers + best.gather(1, columns).squeeze(1)
        cosine, sine = _pair(unit, centers[rows])
        logits = cosines.mul_(scale).scatter_(1, columns, -math.inf)
        rest = logits.logsumexp(dim=1)
        ctx.save_for_backward(unit, norms, centers, center_norms, labels, logits, cosine, sine, rest, best)
        ctx.scale, ctx.dtypes = scale, (embeddings.dtype, weight.dtype)
        return cosine, sine, rest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_cosine, grad_sine, grad_rest = grads
        unit, norms, centers, center_norms, labels, logits, cosine, sine, rest, best = ctx.saved_tensors
        with full_precision(unit.device):
            # With a single class rest is -inf, and -inf - -inf would be nan
            floor = torch.finfo(rest.dtype).min
            share = (logits - rest.clamp_min(floor)[:, None]).exp_().mul_((ctx.scale * grad_rest)[:, None])
            own = _pair_coefficient(cosine, sine, grad_cosine, grad_sine)
            share.scatter_(1, labels[:, None], own[:, None])
            if best is not None:
                spread = share.new_zeros(*best.shape, centers.shape[0] // best.shape[1])
                share = spread.scatter_(2, best[:, :, None], share[:, :, None]).flatten(1)
            grad_embeddings = grad_weight = None
            if ctx.needs_input_grad[0]:
                grad_embeddings = _tangent(share @ centers, unit, norms).to(ctx.dtypes[0])
            if ctx.needs_input_grad[1]:
                grad_weight = _tangent(share.T @ unit, centers, center_norms).to(ctx.dtypes[1])
        return grad_embeddings, grad_weight, None, None, None


class _ChunkedTerms(torch.autograd.Function):
    """Pairs in float64, all other classes in chunks: no tensor of batch x classes is ever made."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        scale: float,
        sub_centers: int,
        chunk_size: int | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype, wide = compute_dtype(embeddings, weight), pair_dtype(embeddings.device)
        unit, norms = unit_rows(embeddings, wide)
        rows, centers, center_norms = _own_centers(unit, weight, labels, sub_centers)
        cosine, sine = _pair(unit, centers)
        narrow = unit.to(dtype)
        rest = rest_forward(narrow, weight, labels, scale, sub_centers, chunk_size).to(wide)
        ctx.save_for_backward(unit, norms, weight, rows, centers, center_norms, labels, cosine, sine, rest)
        ctx.settings, ctx.dtypes = (scale, sub_centers, chunk_size), (embeddings.dtype, dtype)
        return cosine, sine, rest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_cosine, grad_sine, grad_rest = grads
        unit, norms, weight, rows, centers, center_norms, labels, cosine, sine, rest = ctx.saved_tensors
        own = _pair_coefficient(cosine, sine, grad_cosine, grad_sine)[:, None]
        grad_embeddings = grad_weight = None
        with full_precision(unit.device):
            from_rest, grad_weight = rest_backward(
                unit.to(ctx.dtypes[1]), weight, labels, rest, grad_rest, ctx.needs_input_grad[:2], *ctx.settings
            )
            if from_rest is not None:
                grad_embeddings = _tangent(from_rest + own * centers, unit, norms).to(ctx.dtypes[0])
            if grad_weight is not None:
                own_rows = _tangent(own * unit, centers, center_norms)
                grad_weight.index_add_(0, rows, own_rows.to(grad_weight.dtype))
        return grad_embeddings, grad_weight, None, None, None, None


def _own_centers(unit: Tensor, weight: Tensor, labels: Tensor, sub_centers: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the row of each sample's nearest own center, that center at length one, and its norm."""
    if sub_centers == 1:
        return labels, *unit_rows(weight[labels], unit.dtype)
    rows = labels[:, None] * sub_centers + torch.arange(sub_centers, device=labels.device)
    centers, norms = unit_rows(weight[rows.flatten()], unit.dtype)
    centers, norms = centers.unflatten(0, rows.shape), norms.unflatten(0, rows.shape)
    best = (centers @ unit[:, :, None]).argmax(dim=1)
    index = torch.arange(len(labels), device=labels.device), best.squeeze(1)
    return rows[index], centers[index], norms[index]
