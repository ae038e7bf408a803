"""The terms of a loss whose classes are shared among processes, of which some may be left out of a step."""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from arcface_pl.functional._chunks import Hard, Others, others_backward, others_forward
from arcface_pl.functional.precision import compute_dtype, full_precision, pair_dtype, tangent, unit_rows
from arcface_pl.functional.process_group import Group
from arcface_pl.functional.terms import WHOLE_CELLS, AngularTerms, own_centers, own_coefficient, sine_between

__all__ = ["Shard", "sharded_own_angle", "sharded_terms"]

Rows = slice | Tensor


class Shard(NamedTuple):
    """Which classes are here, and what is done with them."""

    group: Group
    """The processes that share the classes."""
    first: int
    """The first class here."""
    num_centers: int
    """Centers that all processes have together, C * K."""
    draw: Callable[[Tensor], Tensor] | None = None
    """Takes the classes here that the batch needs, and returns all that take part in the step, sorted; None: all."""
    update: Callable[[Rows, Tensor], None] | None = None
    """Takes rows of the weight and their gradient inside the backward pass, in place of a gradient of the weight."""


class _Batch(NamedTuple):
    """What all processes bring to a step."""

    sizes: list[int]
    unit: Tensor
    """(B, D) embeddings of length one, in the dtype of pairs."""
    norms: Tensor
    labels: Tensor
    """(B,) relative to the first class here."""
    here: Tensor
    """(B,) whether the own class is here."""

    @classmethod
    def gathered(cls, embeddings: Tensor, labels: Tensor, num_classes: int, shard: Shard) -> "_Batch":
        sizes = shard.group.sizes(labels)
        unit, norms = unit_rows(shard.group.gather(embeddings, sizes), pair_dtype(embeddings.device))
        labels = shard.group.gather(labels, sizes) - shard.first
        return cls(sizes, unit, norms, labels, (labels >= 0) & (labels < num_classes))

    def own(self, centers: Tensor, labels: Tensor, sub_centers: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return ``own_centers`` and the cosine and sine to them; 0 where the own class is elsewhere."""
        labels = labels.clamp(0, centers.shape[0] // sub_centers - 1)
        rows, own, norms = own_centers(self.unit, centers, labels, sub_centers)
        cosine = torch.where(self.here, (self.unit * own).sum(dim=1), 0)
        return rows, own, norms, cosine, torch.where(self.here, sine_between(self.unit, own), 0)


def sharded_terms(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    others: Others,
    hard: Hard | None,
    *,
    with_sum: bool,
    shard: Shard,
) -> AngularTerms:
    """Compute the terms of this process's samples over the classes of all processes.

    The gradient of the embeddings is that of this process's loss; that of the weight is the mean over the processes'
    losses, as if every process had all classes and their gradients were averaged.

    Args:
        embeddings: (B, D) floating point; processes may differ in B.
        weight: (C_here * K, D) floating point.
        labels: (B,) int64 in [0, C), already checked.
        others: Scale and sub-centers.
        hard: CurricularFace's re-weighting of this process's samples.
        with_sum: Whether ``rest_sum`` is needed.
        shard: Which classes are here.
    """
    threshold, t = (None, None) if hard is None else hard
    with full_precision(embeddings.device):
        return AngularTerms(*_apply(embeddings, weight, labels, threshold, t, others, with_sum, shard))


@torch.no_grad()
def sharded_own_angle(
    embeddings: Tensor, weight: Tensor, labels: Tensor, sub_centers: int, shard: Shard
) -> tuple[Tensor, Tensor]:
    """Compute cos and sin of the angle to the own class, wherever that is, (B,) each, without a gradient."""
    batch = _Batch.gathered(embeddings, labels, weight.shape[0] // sub_centers, shard)
    pair = shard.group.sum(torch.stack(batch.own(weight, batch.labels, sub_centers)[3:]))
    cosine, sine = pair[:, shard.group.own(batch.sizes)]
    return cosine, sine


@torch.compiler.disable
def _apply(*args: Any) -> tuple[Tensor | None, ...]:
    return _ShardedTerms.apply(*args)


class _ShardedTerms(torch.autograd.Function):
    """Each process takes its own classes for the samples of all; the parts meet in one sum."""

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
        shard: Shard,
    ) -> tuple[Tensor | None, ...]:
        group, dtype = shard.group, compute_dtype(embeddings, weight)
        batch = _Batch.gathered(embeddings, labels, weight.shape[0] // others.sub_centers, shard)
        if batch.unit.shape[0] * shard.num_centers <= WHOLE_CELLS:
            dtype = batch.unit.dtype  # a small problem is exact in a process alone, and here too
        centers, drawn, columns = weight, None, batch.labels
        if shard.draw is not None:
            classes = shard.draw(batch.labels[batch.here].unique())
            columns = torch.where(batch.here, torch.searchsorted(classes, batch.labels), -1)
            drawn = classes[:, None] * others.sub_centers + torch.arange(others.sub_centers, device=classes.device)
            drawn = drawn.flatten()
            centers = weight[drawn]
        rows, own, own_norms, cosine, sine = batch.own(centers, columns, others.sub_centers)
        hard = None
        if threshold is not None and t is not None:
            hard = Hard(group.gather(threshold, batch.sizes).to(dtype), t.to(dtype))
        rest, rest_sum, lengths = others_forward(
            batch.unit.to(dtype), centers, columns, others, hard=hard, with_sum=with_sum
        )
        terms = _summed(group, cosine, sine, rest, rest_sum, others.needs_shift(hard))
        ctx.save_for_backward(
            *batch[1:], centers, lengths, drawn, columns, rows, own, own_norms, cosine, sine, terms[2], *(hard or ())
        )
        ctx.sizes, ctx.others, ctx.shard, ctx.dtypes = batch.sizes, others, shard, (embeddings.dtype, dtype)
        ctx.shape = weight.shape
        mine = group.own(batch.sizes)
        return tuple(None if term is None else term[mine].clone() for term in terms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        unit, norms, _, here, centers, lengths, drawn, columns, rows, own, own_norms, cosine, sine, rest, *hard = (
            ctx.saved_tensors
        )
        shard, group = ctx.shard, ctx.shard.group
        # Divided by the number of processes here, so that the weight's gradient comes out as the mean
        packed = torch.stack([grad for grad in grads if grad is not None], dim=1) / group.size
        grad_cosine, grad_sine, grad_rest, *grad_sum = group.gather(packed, ctx.sizes).unbind(dim=1)
        coefficient = torch.where(here, own_coefficient(cosine, sine, grad_cosine, grad_sine), 0)[:, None]
        to_own = tangent(coefficient * unit, own, own_norms)
        update = None
        if shard.update is not None:
            update = _with_own(shard.update, drawn, rows, to_own)
        with full_precision(unit.device):
            from_others, grad_weight, _ = others_backward(
                unit.to(ctx.dtypes[1]),
                centers,
                columns,
                ctx.others,
                lengths,
                rest,
                grad_rest.contiguous(),
                grad_sum[0].contiguous() if grad_sum else None,
                ctx.needs_input_grad[:2],
                hard=Hard(*hard) if hard else None,
                update=update,
            )
        grad_embeddings = None
        if from_others is not None:
            total = tangent(from_others + coefficient * own, unit, norms) * group.size
            grad_embeddings = group.scatter_sum(total.to(ctx.dtypes[1]), ctx.sizes).to(ctx.dtypes[0])
        if grad_weight is not None:
            grad_weight.index_add_(0, rows, to_own.to(grad_weight.dtype))
            if drawn is not None:
                grad_weight = torch.sparse_coo_tensor(
                    drawn[None], grad_weight, ctx.shape, is_coalesced=True, check_invariants=False
                )
        return grad_embeddings, grad_weight, None, None, None, None, None, None


def _summed(
    group: Group, cosine: Tensor, sine: Tensor, rest: Tensor, rest_sum: Tensor | None, shifted: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the terms over all processes' classes: one sum, and one maximum before it where exp may overflow."""
    if group.size == 1:
        return cosine, sine, rest, rest_sum
    largest = torch.zeros_like(rest)
    if shifted:
        largest = group.max(rest.clamp_min(torch.finfo(rest.dtype).min))
    parts = [cosine, sine, (rest - largest).exp(), *([] if rest_sum is None else [rest_sum])]
    cosine, sine, total, *sums = group.sum(torch.stack(parts))
    return cosine, sine, total.log() + largest, sums[0] if sums else None


def _with_own(
    update: Callable[[Rows, Tensor], None], drawn: Tensor | None, rows: Tensor, to_own: Tensor
) -> Callable[[slice, Tensor], None]:
    """Return an update of a chunk that adds the gradients of own classes first, so that each center moves once."""
    order = rows.argsort(stable=True)
    places, to_own = rows[order], to_own[order]
    numbers = places.tolist()

    def whole(chunk: slice, grad: Tensor) -> None:
        mine = slice(bisect_left(numbers, chunk.start), bisect_left(numbers, chunk.stop))
        if mine.start < mine.stop:
            grad.index_add_(0, places[mine] - chunk.start, to_own[mine].to(grad.dtype))
        update(chunk if drawn is None else drawn[chunk], grad)

    return whole
