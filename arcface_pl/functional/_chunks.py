"""The part of the loss that knows neither margin nor target, a chunk of classes at a time.

Nothing here knows autograd: these are the two loops that the autograd functions, on one device or on many, are made of.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.functional.precision import inverse_norms, norm_floor, pair_dtype

UNSHIFTED_LOGIT = 64.0
"""Up to this logit exp(logit), and its sum over 1e9 classes, is a float32 number without a shift; so is exp(-logit)."""

CPU_CHUNK_ROWS = 2048
"""At batch 256 and dim 128 on two cores 1,024 were 3% slower, 3,072 and 4,096 no faster; all were equally exact."""
GPU_CHUNK_CELLS = 1 << 24


@dataclass(frozen=True)
class Others:
    """How the classes other than a sample's own one enter its loss."""

    scale: float = 1.0
    """Factor of the cosines."""
    sub_centers: int = 1
    """Centers of each class, of which the nearest counts."""
    chunk_size: int | None = None
    """Classes taken at a time; None chooses from the shape and the device."""
    normalize: bool = True
    """Whether the centers are brought to length one."""

    def chunk(self, batch: int, device: torch.device) -> int:
        """Return how many classes to take at a time."""
        if self.chunk_size is not None:
            return self.chunk_size
        rows = CPU_CHUNK_ROWS if device.type == "cpu" else GPU_CHUNK_CELLS // batch
        return max(1, rows // self.sub_centers)

    def needs_shift(self, hard: "Hard | None") -> bool:
        """Return whether logits may be too large for exp."""
        largest = self.scale * (1 if hard is None else 2)
        return not self.normalize or largest > UNSHIFTED_LOGIT


class Hard(NamedTuple):
    """CurricularFace's re-weighting: a cosine c above the sample's threshold counts as c * (t + c)."""

    threshold: Tensor
    """(B,) cosine above which a class is a hard one for the sample."""
    t: Tensor
    """Scalar, the progress of the training."""


class _Chunk(NamedTuple):
    rows: slice
    """Of the weight."""
    centers: Tensor
    """(n * K, D), of length one where they are normalised."""
    own: Tensor
    """(B, 1) column of the own class in this chunk, or of the spare cell where the own class is not in it."""
    logits: Tensor
    """(B, n) scaled, the nearest center of each class, hard ones re-weighted, -inf at the own class."""
    best: Tensor | None
    """(B, n) which center is nearest, for K > 1."""
    slope: Tensor | None
    """(B, n) derivative of the re-weighted cosine, where there is re-weighting."""


class _Sweep:
    """Goes over the classes in chunks, in buffers made once: each chunk is valid until the next one is asked for.

    Attributes:
        norms: (C * K, 1) lengths of the centers, no shorter than what may be divided by, or None where the centers are
            not normalised. The first sweep fills it in; another over the same centers may be given it.
    """

    def __init__(
        self,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        others: Others,
        hard: Hard | None = None,
        bias: Tensor | None = None,
        norms: Tensor | None = None,
        unit: Tensor | None = None,
    ) -> None:
        self.weight, self.others, self.hard, self.bias, self.unit = weight, others, hard, bias, unit
        self.scaled, self.floor = embeddings * others.scale, norm_floor(embeddings.dtype)
        self.measures = others.normalize and norms is None
        self.norms = embeddings.new_empty(weight.shape[0], 1) if self.measures else norms
        batch, classes = embeddings.shape[0], weight.shape[0] // others.sub_centers
        self.size = min(others.chunk(batch, embeddings.device), classes)
        rows = self.size * others.sub_centers
        self.centers = embeddings.new_empty(rows, embeddings.shape[1])
        self.every = embeddings.new_empty(batch, rows) if others.sub_centers > 1 else None
        # Samples whose class is in another chunk are pointed to a spare column, so that no device has to be asked
        # whether there are any; 16 of them keep the rows aligned
        self.cells = embeddings.new_empty(batch, self.size + 16)
        count = -(-classes // self.size)
        number, column = labels.div(self.size, rounding_mode="floor"), labels.remainder(self.size)
        # One row more than there are chunks, for labels of another process's classes
        self.own = labels.new_full((count + 1, batch, 1), self.size)
        number = torch.where((number >= 0) & (number < count), number, count)
        self.own.scatter_(0, number[None, :, None], column[None, :, None])

    def __iter__(self) -> Iterator[_Chunk]:
        step, classes = self.size * self.others.sub_centers, self.weight.shape[0]
        for number, start in enumerate(range(0, classes, step)):
            rows = slice(start, min(start + step, classes))
            centers = self.weight[rows].to(self.scaled.dtype)
            if self.norms is not None:
                norms = self.norms[rows]
                if self.measures:
                    torch.linalg.vector_norm(centers, dim=1, keepdim=True, out=norms).clamp_min_(self.floor)
                centers = torch.div(centers, norms, out=self.centers[: centers.shape[0]])
            own = self.own[number]
            yield _Chunk(rows, centers, own, *self._logits(centers, own, rows))

    def _logits(self, centers: Tensor, own: Tensor, rows: slice) -> tuple[Tensor, Tensor | None, Tensor | None]:
        count = centers.shape[0] // self.others.sub_centers
        logits, best, slope = self.cells[:, :count], None, None
        if self.every is None:
            torch.mm(self.scaled, centers.T, out=logits)
        else:
            every = torch.mm(self.scaled, centers.T, out=self.every[:, : centers.shape[0]])
            nearest, best = every.unflatten(1, (count, -1)).max(dim=2)
            logits.copy_(nearest)
        if self.bias is not None:
            bias = self.bias[rows].to(logits.dtype)
            logits.add_(bias) if self.unit is None else logits.addcdiv_(bias, self.unit)
        if self.hard is not None:
            is_hard = logits > self.hard.threshold[:, None] * self.others.scale
            weight = torch.where(is_hard, self.hard.t + logits / self.others.scale, 1)
            slope = torch.where(is_hard, 2 * weight - self.hard.t, 1)
            logits.mul_(weight)
        self.cells.scatter_(1, own, -math.inf)
        return logits, best, slope

    def logits_without_own(self, chunk: _Chunk) -> Tensor:
        """Return a copy of the chunk's logits with 0 at the own class."""
        return self.cells.scatter(1, chunk.own, 0)[:, : chunk.logits.shape[1]]

    def to_centers(self, share: Tensor, best: Tensor | None) -> Tensor:
        """Return what a chunk's classes have, (B, n), at the nearest center of each, (B, n * K)."""
        if self.every is None or best is None:
            return share
        spread = self.every[:, : share.shape[1] * self.others.sub_centers].zero_()
        spread.unflatten(1, (share.shape[1], -1)).scatter_(2, best[:, :, None], share[:, :, None])
        return spread


def others_forward(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    others: Others,
    *,
    hard: Hard | None = None,
    bias: Tensor | None = None,
    unit: Tensor | None = None,
    with_sum: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the log-sum-exp of the other classes' logits, their sum where it is asked for, and the centers' lengths.

    The first two are (B,) float64, the third (C * K, 1) is for ``others_backward``.

    Args:
        embeddings: (B, D) float32 or float64, of length one where the centers are normalised.
        weight: (C * K, D) class centers of any length.
        labels: (B,) int64 relative to the first of these classes; a label outside [0, C) excludes nothing.
        others: Scale, sub-centers and chunk size.
        hard: CurricularFace's re-weighting.
        bias: (C,), added to the logits.
        unit: (B, 1) what a sample's embedding was divided by, so that its logits are numbers at all, or None. Only for
            logits that need a shift.
        with_sum: Whether label smoothing needs the sum.
    """
    sweep = _Sweep(embeddings, weight, labels, others, hard, bias, unit=unit)
    # A thousand chunks added up in float32 would cost the last two digits
    wide = pair_dtype(embeddings.device)
    total = embeddings.new_zeros(embeddings.shape[0], dtype=wide)
    linear = torch.zeros_like(total) if with_sum else None
    lowest = torch.finfo(embeddings.dtype).min
    shift = torch.full_like(total, lowest, dtype=embeddings.dtype) if others.needs_shift(hard) else None
    for chunk in sweep:
        if linear is not None:
            linear += sweep.logits_without_own(chunk).sum(dim=1)
        if shift is None:
            total += chunk.logits.exp_().sum(dim=1)
        else:
            larger = torch.maximum(shift, chunk.logits.amax(dim=1))
            total *= _times((shift - larger)[:, None], unit)[:, 0].to(wide).exp()
            total += _times(chunk.logits.sub_(larger[:, None]), unit).exp_().sum(dim=1)
            shift = larger
    rest = total.log() if shift is None else total.log() + _times(shift.to(wide)[:, None], unit)[:, 0]
    return rest, None if linear is None else _times(linear[:, None], unit)[:, 0], sweep.norms


def _times(values: Tensor, unit: Tensor | None) -> Tensor:
    return values if unit is None else values.mul_(unit)


def others_backward(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    others: Others,
    norms: Tensor | None,
    rest: Tensor,
    grad_rest: Tensor,
    grad_sum: Tensor | None,
    needs_grad: Sequence[bool],
    *,
    hard: Hard | None = None,
    bias: Tensor | None = None,
    unit: Tensor | None = None,
    update: Callable[[slice, Tensor], None] | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of embeddings, centers and bias; that of unit embeddings with their tangent not yet taken.

    Args:
        embeddings: As in ``others_forward``, like all that is not named here.
        weight: Likewise.
        labels: Likewise.
        others: Likewise.
        norms: (C * K, 1) what ``others_forward`` returned last.
        rest: (B,) what it returned first.
        grad_rest: (B,) gradient of ``rest``.
        grad_sum: (B,) gradient of the sum, if there was one.
        needs_grad: For embeddings, centers and, where there is one, bias.
        hard: As in ``others_forward``.
        bias: Likewise.
        unit: Likewise; the gradient is that of the embeddings before they were divided.
        update: Takes each chunk's rows and their gradient, when nothing will read these centers any more; the gradient
            of all centers is then not kept.
    """
    sweep = _Sweep(embeddings, weight, labels, others, hard, bias, norms, unit)
    inverse = None if norms is None else inverse_norms(norms)
    grads, products = torch.empty_like(sweep.centers), torch.empty_like(sweep.centers)
    grad_embeddings = torch.zeros_like(embeddings) if needs_grad[0] else None
    grad_weight = torch.empty_like(weight) if needs_grad[1] and update is None else None
    grad_bias = torch.empty_like(bias) if bias is not None and needs_grad[2] else None
    shift, factor = None, grad_rest * others.scale
    if others.needs_shift(hard):
        shift = rest[:, None] if unit is None else rest[:, None] / unit
        shift = shift.clamp_min(torch.finfo(embeddings.dtype).min).to(embeddings.dtype)
    else:
        # The clamp is for a class that is alone: rest is -inf, and all shares are 0
        factor = factor * rest.clamp_min(-UNSHIFTED_LOGIT).neg().exp()
    factor = factor.to(embeddings.dtype)[:, None]
    even = None if grad_sum is None else (grad_sum * others.scale).to(embeddings.dtype)[:, None]
    # The factor goes to the batch x dim side of the products, which is smaller than batch x classes; not where a second
    # term is added to the shares
    weighted = embeddings if unit is None else embeddings * unit
    weighted = weighted * factor if even is None else weighted
    for chunk in sweep:
        share = chunk.logits if shift is None else chunk.logits.sub_(shift)
        if unit is not None:
            # No share is above 1; a logit whose last bit is not the forward's would be, and times the unit infinite
            share.clamp_max_(0).mul_(unit)
        share.exp_()
        if even is not None:
            share.mul_(factor).add_(even)
            sweep.cells.scatter_(1, chunk.own, 0)
        if chunk.slope is not None:
            share.mul_(chunk.slope)
        if grad_bias is not None:
            grad_bias[chunk.rows] = share.sum(dim=0) if even is not None else (factor.T @ share)[0]
        share = sweep.to_centers(share, chunk.best)
        if grad_embeddings is not None:
            grad_embeddings.addmm_(share, chunk.centers)
        if needs_grad[1]:
            count = chunk.centers.shape[0]
            grad = torch.mm(share.T, weighted, out=grads[:count])
            kept = grad if grad_weight is None else grad_weight[chunk.rows]
            if inverse is None:
                kept.copy_(grad)
            else:
                along = torch.mul(grad, chunk.centers, out=products[:count]).sum(dim=1, keepdim=True)
                grad.addcmul_(along, chunk.centers, value=-1)
                torch.mul(grad, inverse[chunk.rows], out=kept)
            if update is not None:
                update(chunk.rows, kept)
    if grad_embeddings is not None and even is None:
        grad_embeddings *= factor
    return grad_embeddings, grad_weight, grad_bias
