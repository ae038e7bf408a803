"""Predictions, cosines and the loss of a batch in one pass over chunks of classes, without a batch x classes tensor."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from arcface_pl.functional.chunked_terms import Shard
from arcface_pl.functional.loss import smooth
from arcface_pl.functional.precision import compute_dtype, full_precision, pair_dtype, unit_rows
from arcface_pl.functional.problem import NonTarget, Reweighting
from arcface_pl.functional.process_group import Group
from arcface_pl.functional.running import Best, LogSum

LogitsOf = Callable[[slice, Tensor], Tensor]
"""Takes rows of the weight and the cosines to their classes, (B, n), and returns logits, (B, n)."""


class HeadScores(NamedTuple):
    """What a head makes of a labelled batch, (B,) each."""

    predictions: Tensor
    """int64, the class with the largest logit; of equal ones the first."""
    predicted_cosine: Tensor
    """Cosine to the predicted class."""
    target_cosine: Tensor
    """Cosine to the target class."""
    nearest_other_cosine: Tensor
    """Largest cosine to any class but the target; -inf where there is none."""
    margin_predictions: Tensor
    """int64, the prediction with the margin left on the target logit, which needs the label."""
    loss: Tensor
    """As ``head.loss(..., reduction="none")``."""


class _Chunks:
    """Cosines of a batch to the classes, a chunk at a time, each in the buffer of the last."""

    def __init__(self, embeddings: Tensor, weight: Tensor, sub_centers: int, chunk_size: int | None) -> None:
        self.dtype, wide = compute_dtype(embeddings, weight), pair_dtype(embeddings.device)
        self.unit = unit_rows(embeddings, wide)[0].to(self.dtype)
        self.weight, self.sub_centers = weight, sub_centers
        size = NonTarget(1.0, sub_centers, chunk_size).chunk(
            max(1, len(embeddings)), embeddings.shape[1], embeddings.device
        )
        self.rows = min(size * sub_centers, weight.shape[0])
        self.cells = self.unit.new_empty(len(embeddings), self.rows)

    def __iter__(self) -> Iterator[tuple[int, slice, Tensor]]:
        """Yield the first class, the rows of the weight, and the cosines (B, n)."""
        for start in range(0, self.weight.shape[0], self.rows):
            rows = slice(start, min(start + self.rows, self.weight.shape[0]))
            centers = unit_rows(self.weight[rows], self.dtype)[0]
            cosine = torch.mm(self.unit, centers.T, out=self.cells[:, : len(centers)]).clamp_(-1, 1)
            if self.sub_centers > 1:
                cosine = cosine.unflatten(1, (-1, self.sub_centers)).amax(dim=2)
            yield start // self.sub_centers, rows, cosine


def _take(first: int, labels: Tensor, values: Tensor, kept: Tensor) -> Tensor:
    """Put -inf at the target in a chunk (B, n); return its value there, or ``kept`` where the target is elsewhere."""
    column = labels - first
    inside = (column >= 0) & (column < values.shape[1])
    column = column.clamp(0, values.shape[1] - 1)[:, None]
    there = values.gather(1, column)[:, 0]
    values.scatter_(1, column, torch.where(inside, -math.inf, there)[:, None])
    return torch.where(inside, there, kept)


class _Swept(NamedTuple):
    """What a pass over the chunks of classes finds for each sample."""

    target: Tensor
    nearest: Tensor
    best: Best
    margin_best: Best
    log_sum: LogSum
    logit_sum: Tensor | None


def _swept(
    chunks: _Chunks,
    labels: Tensor,
    dtype: torch.dtype,
    scale: float | Tensor,
    reweighting: Reweighting | None,
    *,
    with_sum: bool,
) -> _Swept:
    best = margin_best = Best.of_none(chunks.unit)
    target, nearest = best.cosine, best.logit
    total = torch.zeros_like(nearest, dtype=dtype)
    log_sum = LogSum(total, torch.full_like(nearest, torch.finfo(nearest.dtype).min))
    logit_sum = torch.zeros_like(total) if with_sum else None
    for first, _, cosine in chunks:
        target = _take(first, labels, cosine, target)
        nearest = torch.maximum(nearest, cosine.amax(dim=1))
        logits = cosine * scale
        found = Best.of_chunk(first, logits, cosine)
        best = best.or_larger(found)
        if reweighting is not None:
            logits = scale * reweighting.apply(cosine)
            found = Best.of_chunk(first, logits, cosine)
            margin_best = margin_best.or_larger(found)
        if logit_sum is not None:
            logit_sum += logits.masked_fill(logits == -math.inf, 0).sum(dim=1)
        log_sum = log_sum.plus(logits, found.logit)
    return _Swept(target, nearest, best, margin_best, log_sum, logit_sum)


@torch.no_grad()
def angular_scores(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    psi: Tensor,
    *,
    scale: float | Tensor,
    sub_centers: int = 1,
    label_smoothing: float = 0.0,
    reweighting: Reweighting | None = None,
    chunk_size: int | None = None,
    shard: Shard | None = None,
) -> HeadScores:
    """Score a batch by scaled cosines; with a shard over the classes of all processes, which may differ in B.

    Args:
        embeddings: (B, D) floating point, of any length.
        weight: (C * K, D) floating point, class centers of any length, a class's K centers adjacent; with a shard those
            of this process.
        labels: (B,) int64 in [0, C).
        psi: (B,) float64, what replaces the cosine to the target class where the margin counts.
        scale: s, positive.
        sub_centers: K; a class's cosine is the largest over its centers.
        label_smoothing: Fraction of the target that is spread evenly over all C classes, in [0, 1).
        reweighting: CurricularFace's, which counts in the loss and in ``margin_predictions``.
        chunk_size: Classes per chunk; None chooses from the shape and the device.
        shard: Which classes are here, and whose they are besides; None for all.

    Returns:
        The scores; the losses in float64 (float32 on MPS).
    """
    with full_precision(embeddings.device):
        group, first_class = (Group(alone=True), 0) if shard is None else (shard.group, shard.first)
        num_classes = (weight.shape[0] if shard is None else shard.num_centers) // sub_centers
        sizes = group.sizes(labels)
        mine, own_labels = group.local(sizes), labels
        embeddings, labels = group.gather(embeddings, sizes), group.gather(labels, sizes) - first_class
        if reweighting is not None:
            reweighting = Reweighting(group.gather(reweighting.threshold, sizes), reweighting.t)
        chunks = _Chunks(embeddings, weight, sub_centers, chunk_size)
        found = _swept(chunks, labels, psi.dtype, scale, reweighting, with_sum=label_smoothing > 0)
        target, nearest, best, margin_best, log_sum, logit_sum = found
        if shard is not None:
            here = (labels >= 0) & (labels < weight.shape[0] // sub_centers)
            target, nearest = group.sum(torch.where(here, target, 0)), group.max(nearest)
            log_sum, logit_sum = log_sum.summed(group), None if logit_sum is None else group.sum(logit_sum)
        best = best.joined(shard, mine)
        margin_best = best if reweighting is None else margin_best.joined(shard, mine)
        target, nearest, labels = target[mine], nearest[mine], own_labels
        target_logit = psi * scale
        losses = F.softplus(log_sum.log()[mine] - target_logit)
        logit_sum = None if logit_sum is None else logit_sum[mine]
        losses = smooth(losses, target_logit, logit_sum, label_smoothing, num_classes)
        is_right = best.loses_to(labels, target * scale)
        is_right_with_margin = margin_best.loses_to(labels, target_logit.to(target.dtype))
        return HeadScores(
            torch.where(is_right, labels, best.place),
            torch.where(is_right, target, best.cosine),
            target,
            nearest,
            torch.where(is_right_with_margin, labels, margin_best.place),
            losses,
        )


@torch.no_grad()
def predict(
    embeddings: Tensor,
    weight: Tensor,
    logits_of: LogitsOf,
    *,
    sub_centers: int = 1,
    chunk_size: int | None = None,
    shard: Shard | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the class with the largest logit, of those of all processes with a shard, and the cosine to it, (B,) each.

    Args:
        embeddings: (B, D) floating point, of any length.
        weight: (C * K, D) floating point, a class's K centers adjacent.
        logits_of: Computes the logits of a chunk, see `LogitsOf`.
        sub_centers: K; a class's cosine is the largest over its centers.
        chunk_size: Classes per chunk; None chooses from the shape and the device.
        shard: Which classes are here, and whose they are besides; None for all.
    """
    with full_precision(embeddings.device):
        mine = slice(None)
        if shard is not None:
            sizes = shard.group.sizes(embeddings)
            mine, embeddings = shard.group.local(sizes), shard.group.gather(embeddings, sizes)
        chunks = _Chunks(embeddings, weight, sub_centers, chunk_size)
        best = Best.of_none(chunks.unit)
        for first, rows, cosine in chunks:
            best = best.or_larger(Best.of_chunk(first, logits_of(rows, cosine), cosine))
        best = best.joined(shard, mine)
        return best.place, best.cosine


@torch.no_grad()
def logit_scores(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    logits_of: LogitsOf,
    losses: Tensor,
    *,
    chunk_size: int | None = None,
) -> HeadScores:
    """Score a batch by logits that are not cosines, and have no margin.

    Args:
        embeddings: (B, D) floating point, of any length.
        weight: (C, D) floating point.
        labels: (B,) int64 in [0, C).
        logits_of: Computes the logits of a chunk, see `LogitsOf`.
        losses: (B,) the loss of each sample.
        chunk_size: Classes per chunk; None chooses from the shape and the device.
    """
    with full_precision(embeddings.device):
        chunks = _Chunks(embeddings, weight, 1, chunk_size)
        best = Best.of_none(chunks.unit)
        target, nearest = best.cosine, best.logit
        for first, rows, cosine in chunks:
            best = best.or_larger(Best.of_chunk(first, logits_of(rows, cosine), cosine))
            target = _take(first, labels, cosine, target)
            nearest = torch.maximum(nearest, cosine.amax(dim=1))
        return HeadScores(best.place, best.cosine, target, nearest, best.place, losses)
