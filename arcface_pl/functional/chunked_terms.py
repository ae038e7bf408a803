"""The terms of a loss in chunks of classes, which may be sharded over processes and sampled for a step."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arcface_pl.errors import expected
from arcface_pl.functional.derivatives import first_order_only
from arcface_pl.functional.eager import eager
from arcface_pl.functional.non_target import non_target_backward, non_target_forward
from arcface_pl.functional.precision import compute_dtype, full_precision, pair_dtype, tangent, unit_rows
from arcface_pl.functional.problem import NonTarget, Problem, Reweighting
from arcface_pl.functional.process_group import Group
from arcface_pl.functional.terms import (
    WHOLE_CELLS,
    AngularTerms,
    WholeTerms,
    sine_between,
    target_centers,
    target_coefficient,
)

Rows = slice | Tensor


class Shard(NamedTuple):
    """Which classes this process has, and what a step does with them."""

    group: Group
    """The processes that share the classes."""
    first: int
    """The first class here."""
    num_centers: int
    """Centers of all processes together, C * K."""
    draw: Callable[[Tensor, Tensor], Tensor] | None = None
    """Takes the batch's labels, relative to the first class, and which of them are here, (B,) each; returns the classes
    that take part in the step, sorted, with all that are needed among them. None: all classes do."""
    update: Callable[[], Callable[[Rows, Tensor], None]] | None = None
    """Begins an update inside the backward pass; returns what takes rows of the weight and their gradient. The weight
    then gets no gradient."""


class _Batch(NamedTuple):
    """The samples of all processes."""

    sizes: list[int]
    unit: Tensor
    """(B, D) embeddings of length one, in the dtype of pairs."""
    norms: Tensor
    labels: Tensor
    """(B,) relative to the first class here."""
    here: Tensor
    """(B,) whether the target class is here."""

    @classmethod
    def gathered(cls, embeddings: Tensor, labels: Tensor, num_classes: int, shard: Shard) -> "_Batch":
        sizes = shard.group.sizes(labels)
        unit, norms = unit_rows(shard.group.gather(embeddings, sizes), pair_dtype(embeddings.device))
        labels = shard.group.gather(labels, sizes) - shard.first
        return cls(sizes, unit, norms, labels, (labels >= 0) & (labels < num_classes))

    def target(
        self, centers: Tensor, labels: Tensor, sub_centers: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return ``target_centers`` and the cosine and sine to them; 0 where the target class is elsewhere."""
        labels = labels.clamp(0, centers.shape[0] // sub_centers - 1)
        rows, target, norms = target_centers(self.unit, centers, labels, sub_centers)
        cosine = torch.where(self.here, (self.unit * target).sum(dim=1), 0)
        return rows, target, norms, cosine, torch.where(self.here, sine_between(self.unit, target), 0)


def angular_terms(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    non_target: NonTarget,
    reweighting: Reweighting | None = None,
    *,
    with_sum: bool,
    shard: Shard | None = None,
) -> AngularTerms:
    """Compute the angle to the target and the log-sum-exp of the other classes, with exact first derivatives of both.

    With a shard these are the terms of this process's samples over the classes of all processes. The gradient of the
    embeddings is that of this process's loss; that of the weight is the mean over the processes' losses, as if every
    process had all classes and their gradients were averaged.

    Args:
        embeddings: (B, D) floating point; processes may differ in B.
        weight: (C * K, D) floating point, a class's centers adjacent; with a shard those of this process.
        labels: (B,) int64 in [0, C) of all classes, already checked.
        non_target: Scale, sub-centers and chunk size; without a chunk size a small problem is computed in float64. A
            scale that requires a gradient gets the exact one, except with a re-weighting.
        reweighting: CurricularFace's; no gradient flows into it.
        with_sum: Whether ``non_target_sum`` is needed.
        shard: Which classes are here; None for all.

    Raises:
        ValueError: A re-weighting together with a scale that requires a gradient.
    """
    scale = non_target.scale if isinstance(non_target.scale, Tensor) else None
    if scale is not None:
        if reweighting is not None and scale.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                expected("scale.requires_grad", True, "False together with a re-weighting (CurricularFace)")
            )
        non_target = replace(non_target, scale=scale.detach())
    args = embeddings, weight, labels, *(reweighting or (None, None)), scale, non_target, with_sum
    is_small = non_target.chunk_size is None and embeddings.shape[0] * weight.shape[0] <= WHOLE_CELLS
    with full_precision(embeddings.device):
        if shard is None and is_small:
            return AngularTerms(*WholeTerms.apply(*args))
        keeps = torch.is_grad_enabled() and weight.requires_grad
        return AngularTerms(*_apply(*args, shard or Shard(Group(alone=True), 0, weight.shape[0]), keeps))


@torch.no_grad()
def sharded_target_angle(
    embeddings: Tensor, weight: Tensor, labels: Tensor, sub_centers: int, shard: Shard
) -> tuple[Tensor, Tensor]:
    """Compute cos and sin of the angle to the target class, wherever that is, (B,) each, without a gradient."""
    batch = _Batch.gathered(embeddings, labels, weight.shape[0] // sub_centers, shard)
    pair = shard.group.sum(torch.stack(batch.target(weight, batch.labels, sub_centers)[3:]))
    cosine, sine = pair[:, shard.group.local(batch.sizes)]
    return cosine, sine


@eager  # a loop over a thousand chunks is not to be unrolled into a graph
def _apply(*args: Any) -> tuple[Tensor | None, ...]:
    return _ChunkedTerms.apply(*args)


class _ChunkedTerms(torch.autograd.Function):
    """The target in float64, all other classes in chunks: no batch x classes tensor is made.

    Each process takes its classes for the samples of all; one sum puts the parts together.
    """

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
        shard: Shard,
        keeps: bool,
    ) -> tuple[Tensor | None, ...]:
        group, dtype = shard.group, compute_dtype(embeddings, weight)
        batch = _Batch.gathered(embeddings, labels, weight.shape[0] // non_target.sub_centers, shard)
        if non_target.chunk_size is None and batch.unit.shape[0] * shard.num_centers <= WHOLE_CELLS:
            dtype = batch.unit.dtype  # as exact as the small problem of a process alone
        centers, drawn, columns = weight, None, batch.labels
        if shard.draw is not None:
            classes = shard.draw(batch.labels, batch.here)
            columns = torch.where(batch.here, torch.searchsorted(classes, batch.labels), -1)
            sub_centers = torch.arange(non_target.sub_centers, device=classes.device)
            drawn = (classes[:, None] * non_target.sub_centers + sub_centers).flatten()
            centers = weight[drawn]
        rows, target, target_norms, cosine, sine = batch.target(centers, columns, non_target.sub_centers)
        reweighting = None
        if threshold is not None and t is not None:
            reweighting = Reweighting(group.gather(threshold, batch.sizes).to(dtype), t.to(dtype))
        problem = Problem(batch.unit.to(dtype), centers, columns, non_target, reweighting)
        ctx.kept = problem.logits_buffer() if keeps and shard.update is None else None
        lse, logit_sum, lengths = non_target_forward(problem, with_sum=with_sum, keep=ctx.kept)
        terms = _summed(group, cosine, sine, lse, logit_sum, problem.needs_shift())
        ctx.save_for_backward(
            *(*batch[1:], centers, lengths, drawn, columns, rows, target, target_norms, cosine, sine, terms[2]),
            *(reweighting or ()),
        )
        ctx.sizes, ctx.non_target, ctx.shard, ctx.dtypes = batch.sizes, non_target, shard, (embeddings.dtype, dtype)
        ctx.shape = weight.shape
        mine = group.local(batch.sizes)
        return tuple(None if term is None else term[mine].clone() for term in terms)

    @staticmethod
    @first_order_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        unit, norms, _, here, centers, lengths, drawn, columns, rows, target, target_norms, *tensors = ctx.saved_tensors
        cosine, sine, lse, *reweighting = tensors
        shard, group, scale = ctx.shard, ctx.shard.group, ctx.non_target.scale
        # Divided by the number of processes here, so that the weight's gradient comes out as the mean
        packed = torch.stack([grad for grad in grads if grad is not None], dim=1) / group.size
        grad_cosine, grad_sine, grad_lse, *sums = group.gather(packed, ctx.sizes).unbind(dim=1)
        coefficient = torch.where(here, target_coefficient(cosine, sine, grad_cosine, grad_sine), 0)[:, None]
        to_target = tangent(coefficient * unit, target, target_norms)
        kept, ctx.kept, update = ctx.kept, None, None
        if shard.update is not None:
            update = _with_targets(shard.update(), drawn, rows, to_target)
        weighting = Reweighting(*reweighting) if reweighting else None
        problem = Problem(unit.to(ctx.dtypes[1]), centers, columns, ctx.non_target, weighting)
        grad_sum = sums[0].contiguous() if sums else None
        with full_precision(unit.device):
            from_others, grad_weight, _ = non_target_backward(
                problem,
                lengths,
                lse,
                grad_lse.contiguous(),
                grad_sum,
                (ctx.needs_input_grad[0] or ctx.needs_input_grad[5], ctx.needs_input_grad[1]),
                update=update,
                kept=kept,
            )
        grad_embeddings = grad_scale = None
        if from_others is not None and ctx.needs_input_grad[5]:
            # Without re-weighting the logits are linear in scale and unit vector alike
            by_sample = (from_others * unit).sum(dim=1) * group.size
            grad_scale = group.scatter_sum(by_sample, ctx.sizes).sum().to(scale.dtype) / scale
        if from_others is not None and ctx.needs_input_grad[0]:
            total = tangent(from_others + coefficient * target, unit, norms) * group.size
            grad_embeddings = group.scatter_sum(total.to(ctx.dtypes[1]), ctx.sizes).to(ctx.dtypes[0])
        if grad_weight is not None:
            grad_weight.index_add_(0, rows, to_target.to(grad_weight.dtype))
            if drawn is not None:
                # The argument check_invariants=False means the same, but torch 2.11 warns in spite of it.
                with torch.sparse.check_sparse_tensor_invariants(False):
                    grad_weight = torch.sparse_coo_tensor(drawn[None], grad_weight, ctx.shape, is_coalesced=True)
        return grad_embeddings, grad_weight, None, None, None, grad_scale, None, None, None, None


def _summed(
    group: Group, cosine: Tensor, sine: Tensor, lse: Tensor, logit_sum: Tensor | None, shifted: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the terms over all processes' classes: one sum, and one maximum before it where exp may overflow."""
    if group.size == 1:
        return cosine, sine, lse, logit_sum
    largest = torch.zeros_like(lse)
    if shifted:
        largest = group.max(lse.clamp_min(torch.finfo(lse.dtype).min))
    parts = [cosine, sine, (lse - largest).exp(), *([] if logit_sum is None else [logit_sum])]
    cosine, sine, total, *sums = group.sum(torch.stack(parts))
    return cosine, sine, total.log() + largest, sums[0] if sums else None


def _with_targets(
    update: Callable[[Rows, Tensor], None], drawn: Tensor | None, rows: Tensor, to_target: Tensor
) -> Callable[[slice, Tensor], None]:
    """Return an update of a chunk that adds the targets' gradients first, so that each center moves once."""
    if rows.device.type != "cpu":
        return _with_masked_targets(update, drawn, rows, to_target)
    order = rows.argsort(stable=True)
    places, to_target = rows[order], to_target[order]
    numbers = places.tolist()

    def whole(chunk: slice, grad: Tensor) -> None:
        mine = slice(bisect_left(numbers, chunk.start), bisect_left(numbers, chunk.stop))
        if mine.start < mine.stop:
            grad.index_add_(0, places[mine] - chunk.start, to_target[mine].to(grad.dtype))
        update(chunk if drawn is None else drawn[chunk], grad)

    return whole


def _with_masked_targets(
    update: Callable[[Rows, Tensor], None], drawn: Tensor | None, rows: Tensor, to_target: Tensor
) -> Callable[[slice, Tensor], None]:
    """Do what ``_with_targets`` does without asking the device which targets are in a chunk: the others add zeros."""

    def whole(chunk: slice, grad: Tensor) -> None:
        inside = (rows >= chunk.start) & (rows < chunk.stop)
        places = (rows - chunk.start).remainder(grad.shape[0])
        grad.index_add_(0, places, torch.where(inside[:, None], to_target, 0).to(grad.dtype))
        update(chunk if drawn is None else drawn[chunk], grad)

    return whole
