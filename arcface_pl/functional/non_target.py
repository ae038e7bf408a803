"""The part of the loss without margin and target: the log-sum-exp of the non-target classes, in chunks of classes.

Two plain loops, forward and backward, without autograd: the autograd functions of one and of many devices call them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.functional.precision import inverse_norms, norm_floor, pair_dtype
from arcface_pl.functional.problem import UNSHIFTED_LOGIT, Problem
from arcface_pl.functional.products import Products, tensor_cores

DIVIDING_DEVICES = ("cpu",)
"""Where centers are divided by their length. Elsewhere the logits are: a GPU's time goes into passes over memory, of
which this saves six over the centers and costs four over batch x classes."""


class _Chunk(NamedTuple):
    rows: slice
    """Of the weight."""
    centers: Tensor
    """(n * K, D), of length one where they are normalized and this device divides them."""
    operand: Tensor
    """The same, as the products take them."""
    target: Tensor
    """(B, 1) column of the target in this chunk, or of a spare cell where the target is in another chunk."""
    logits: Tensor
    """(B, n) scaled, of the nearest center per class, re-weighted, -inf at the target."""
    best: Tensor | None
    """(B, n) which center is nearest, for K > 1."""
    slope: Tensor | None
    """(B, n) derivative of the re-weighted cosine, where there is re-weighting."""


class _Sweep:
    """Iterates over chunks of classes in buffers made once: a chunk is valid until the next one is asked for.

    Attributes:
        norms: (C * K, 1) lengths of the centers, at least what may be divided by, or None where the centers are not
            normalized. The first sweep fills it in; another one over the same centers may be given it.
    """

    def __init__(
        self, problem: Problem, norms: Tensor | None = None, kept: Tensor | None = None, *, copies: bool = False
    ) -> None:
        embeddings, weight, labels, non_target, self.reweighting, self.bias, self.divisor = problem
        self.weight, self.non_target, self.kept, self.copies = weight, non_target, kept, copies
        self.products, self.dtype = Products(non_target.precision, embeddings), embeddings.dtype
        self.scaled, self.floor = self.products.operand(embeddings * non_target.scale), norm_floor(self.dtype)
        self.divides = non_target.normalize and embeddings.device.type in DIVIDING_DEVICES
        self.measures = non_target.normalize and norms is None
        self.norms = embeddings.new_empty(weight.shape[0], 1) if self.measures else norms
        batch, classes = embeddings.shape[0], weight.shape[0] // non_target.sub_centers
        self.size = min(non_target.chunk(batch, embeddings.shape[1], embeddings.device), classes)
        rows = self.size * non_target.sub_centers
        self.centers = embeddings.new_empty(rows if self.divides else 0, embeddings.shape[1])
        self.every = embeddings.new_empty(batch, rows) if non_target.sub_centers > 1 else None
        # Samples whose target is in another chunk point to a spare column, so that the device need not be asked whether
        # there are any; 16 of them keep the rows aligned
        self.cells = embeddings.new_empty(batch, self.size + 16)
        count = -(-classes // self.size)
        number, column = labels.div(self.size, rounding_mode="floor"), labels.remainder(self.size)
        # One row more than there are chunks, for labels of another process's classes
        self.target = labels.new_full((count + 1, batch, 1), self.size)
        number = torch.where((number >= 0) & (number < count), number, count)
        self.target.scatter_(0, number[None, :, None], column[None, :, None])

    def __iter__(self) -> Iterator[_Chunk]:
        step, classes = self.size * self.non_target.sub_centers, self.weight.shape[0]
        for number, start in enumerate(range(0, classes, step)):
            rows = slice(start, min(start + step, classes))
            centers, norms = self.weight[rows].to(self.dtype), None if self.norms is None else self.norms[rows]
            if self.measures:
                torch.linalg.vector_norm(centers, dim=1, keepdim=True, out=norms).clamp_min_(self.floor)
            if self.divides and norms is not None:
                centers = torch.div(centers, norms, out=self.centers[: centers.shape[0]])
            operand, target = self.products.operand(centers), self.target[number]
            yield _Chunk(rows, centers, operand, target, *self._logits(operand, target, rows))

    def _logits(self, operand: Tensor, target: Tensor, rows: slice) -> tuple[Tensor, Tensor | None, Tensor | None]:
        count = operand.shape[0] // self.non_target.sub_centers
        logits, best, slope = self.cells[:, :count], None, None
        if self.kept is not None:
            kept = self.place(self.kept, rows)
            return logits.copy_(kept) if self.copies else kept, None, None
        every = self.products.mm(
            self.scaled, operand.T, out=logits if self.every is None else self.every[:, : operand.shape[0]]
        )
        if self.norms is not None and not self.divides:
            every.div_(self.norms[rows].T)
        if self.every is not None:
            nearest, best = every.unflatten(1, (count, -1)).max(dim=2)
            logits.copy_(nearest)
        if self.bias is not None:
            bias = self.bias[rows].to(logits.dtype)
            logits.add_(bias) if self.divisor is None else logits.addcdiv_(bias, self.divisor)
        if self.reweighting is not None:
            is_hard = logits > self.reweighting.threshold[:, None] * self.non_target.scale
            factor = torch.where(is_hard, self.reweighting.t + logits / self.non_target.scale, 1)
            slope = torch.where(is_hard, 2 * factor - self.reweighting.t, 1)
            logits.mul_(factor)
        self.cells.scatter_(1, target, -math.inf)
        return logits, best, slope

    def place(self, buffer: Tensor, rows: slice) -> Tensor:
        """Return the (B, n) cells that a chunk of n classes has in a buffer of the weight's shape."""
        batch = self.scaled.shape[0]
        count = rows.stop - rows.start
        return buffer[rows].view(-1)[: batch * count].view(batch, count)

    def logits_without_target(self, chunk: _Chunk) -> Tensor:
        """Return a copy of the chunk's logits with 0 at the target."""
        return self.cells.scatter(1, chunk.target, 0)[:, : chunk.logits.shape[1]]

    def to_centers(self, values: Tensor, best: Tensor | None) -> Tensor:
        """Spread values per class, (B, n), to the nearest center of each, (B, n * K)."""
        if self.every is None or best is None:
            return values
        spread = self.every[:, : values.shape[1] * self.non_target.sub_centers].zero_()
        spread.unflatten(1, (values.shape[1], -1)).scatter_(2, best[:, :, None], values[:, :, None])
        return spread


def non_target_forward(
    problem: Problem, *, with_sum: bool = False, keep: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Compute the log-sum-exp of the non-target logits, their sum where asked for, and the lengths of the centers.

    The first two are (B,) float64, the third (C * K, 1) is for ``non_target_backward``.

    Args:
        problem: Embeddings, centers and labels.
        with_sum: Whether label smoothing needs the sum.
        keep: What ``logits_buffer`` returned; filled in for ``non_target_backward``.
    """
    with tensor_cores(problem.non_target.precision):
        return _forward(problem, _Sweep(problem), with_sum=with_sum, keep=keep)


def _forward(
    problem: Problem, sweep: _Sweep, *, with_sum: bool, keep: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    embeddings, divisor = problem.embeddings, problem.divisor
    # A thousand chunks added up in float32 would cost the last two digits
    wide = pair_dtype(embeddings.device)
    total = embeddings.new_zeros(embeddings.shape[0], dtype=wide)
    linear = torch.zeros_like(total) if with_sum else None
    lowest = torch.finfo(embeddings.dtype).min
    shift = torch.full_like(total, lowest, dtype=embeddings.dtype) if problem.needs_shift() else None
    for chunk in sweep:
        if linear is not None:
            linear += sweep.logits_without_target(chunk).sum(dim=1)
        kept = None if keep is None else sweep.place(keep, chunk.rows)
        if shift is None:
            total += torch.exp(chunk.logits, out=chunk.logits if kept is None else kept).sum(dim=1)
        else:
            if kept is not None:
                kept.copy_(chunk.logits)
            larger = torch.maximum(shift, chunk.logits.amax(dim=1))
            total *= _times((shift - larger)[:, None], divisor)[:, 0].to(wide).exp()
            total += _times(chunk.logits.sub_(larger[:, None]), divisor).exp_().sum(dim=1)
            shift = larger
    lse = total.log() if shift is None else total.log() + _times(shift.to(wide)[:, None], divisor)[:, 0]
    return lse, None if linear is None else _times(linear[:, None], divisor)[:, 0], sweep.norms


def _times(values: Tensor, divisor: Tensor | None) -> Tensor:
    return values if divisor is None else values.mul_(divisor)


def non_target_backward(
    problem: Problem,
    norms: Tensor | None,
    lse: Tensor,
    grad_lse: Tensor,
    grad_sum: Tensor | None,
    needs_grad: Sequence[bool],
    *,
    update: Callable[[slice, Tensor], None] | None = None,
    kept: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Compute the gradients of embeddings, centers and bias.

    The gradient of normalized embeddings is that of the unit vectors, not yet projected onto their tangent; that of
    divided ones is the gradient before the division.

    Args:
        problem: As in ``non_target_forward``.
        norms: (C * K, 1), the third result of ``non_target_forward``.
        lse: (B,), its first result, over the classes of all processes.
        grad_lse: (B,) gradient of ``lse``.
        grad_sum: (B,) gradient of the sum, if there was one.
        needs_grad: For embeddings, centers and, where there is one, bias.
        update: Called with each chunk's rows and gradient once nothing reads these centers any more; the gradient of
            all centers is then not kept.
        kept: The forward pass's ``keep``; overwritten by the gradient of the centers.
    """
    embeddings, weight, bias, divisor = problem.embeddings, problem.weight, problem.bias, problem.divisor
    sweep = _Sweep(problem, norms, kept, copies=grad_sum is not None)
    grad_embeddings = torch.zeros_like(embeddings) if needs_grad[0] else None
    grad_weight = None
    if needs_grad[1] and update is None:
        grad_weight = torch.empty_like(weight) if kept is None else kept
    grad_bias = torch.empty_like(bias) if bias is not None and needs_grad[2] else None
    shift, factor = _shift_and_factor(problem, lse, grad_lse)
    even = None if grad_sum is None else (grad_sum * problem.non_target.scale).to(embeddings.dtype)[:, None]
    # The factor goes to the batch x dim side of the products, which is smaller than batch x classes; not where label
    # smoothing adds a second term
    weighted = embeddings if divisor is None else embeddings * divisor
    weighted = weighted * factor if even is None else weighted
    to_centers = _CenterGradients(sweep, weighted, norms)
    with tensor_cores(problem.non_target.precision):
        for chunk in sweep:
            slopes = chunk.logits if shift is None else chunk.logits.sub_(shift)
            if divisor is not None:
                # No probability is above 1; a logit whose last bit is not the forward's would be, and times the divisor
                # inf
                slopes.clamp_max_(0).mul_(divisor)
            if kept is None or shift is not None:
                slopes.exp_()
            if even is not None:
                slopes.mul_(factor).add_(even)
                sweep.cells.scatter_(1, chunk.target, 0)
            if chunk.slope is not None:
                slopes.mul_(chunk.slope)
            if grad_bias is not None:
                grad_bias[chunk.rows] = slopes.sum(dim=0) if even is not None else (factor.T @ slopes)[0]
            slopes = to_centers.operand(sweep.to_centers(slopes, chunk.best), chunk.rows)
            if grad_embeddings is not None:
                sweep.products.add_mm(grad_embeddings, slopes, chunk.operand)
            if needs_grad[1]:
                grad = to_centers.write(chunk, slopes, grad_weight)
                if update is not None:
                    update(chunk.rows, grad)
    if grad_embeddings is not None and even is None:
        grad_embeddings *= factor
    return grad_embeddings, grad_weight, grad_bias


def _shift_and_factor(problem: Problem, lse: Tensor, grad_lse: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return what to subtract from the logits before exp, if anything, and what to multiply by after, (B, 1) each."""
    dtype, divisor = problem.embeddings.dtype, problem.divisor
    shift, factor = None, grad_lse * problem.non_target.scale
    if problem.needs_shift():
        shift = lse[:, None] if divisor is None else lse[:, None] / divisor
        shift = shift.clamp_min(torch.finfo(dtype).min).to(dtype)
    else:
        # The clamp is for a class that is alone: its log-sum-exp is -inf, and all probabilities are 0
        factor = factor * lse.clamp_min(-UNSHIFTED_LOGIT).neg().exp()
    return shift, factor.to(dtype)[:, None]


class _CenterGradients:
    """Gradients of the centers of a chunk, in buffers made once."""

    def __init__(self, sweep: _Sweep, weighted: Tensor, norms: Tensor | None) -> None:
        self.products, self.divides, self.weighted = sweep.products, sweep.divides, sweep.products.operand(weighted)
        self.inverse = None if norms is None else inverse_norms(norms)
        rows = sweep.size * sweep.non_target.sub_centers
        self.grads, self.scratch = (weighted.new_empty(rows, weighted.shape[1]) for _ in range(2))

    def operand(self, slopes: Tensor, rows: slice) -> Tensor:
        """Return slopes by centers of length one, or by those of the weight, as the products take them; overwrites."""
        if self.inverse is not None and not self.divides:
            # A center shorter than MIN_NORM is left out of the gradient of the embeddings too
            slopes = slopes.mul_(self.inverse[rows].T)
        return self.products.operand(slopes)

    def write(self, chunk: _Chunk, slopes: Tensor, grad_weight: Tensor | None) -> Tensor:
        """Return the gradient of the chunk's centers, in its rows of ``grad_weight`` if there is one."""
        count = chunk.centers.shape[0]
        grad = self.products.mm(slopes.T, self.weighted, self.grads[:count])
        out = grad if grad_weight is None else grad_weight[chunk.rows]
        if self.inverse is None:
            return out.copy_(grad)
        along = torch.mul(grad, chunk.centers, out=self.scratch[:count]).sum(dim=1, keepdim=True)
        inverse = self.inverse[chunk.rows]
        if not self.divides:
            return torch.addcmul(grad, along.mul_(inverse).mul_(inverse), chunk.centers, value=-1, out=out)
        grad.addcmul_(along, chunk.centers, value=-1)
        return torch.mul(grad, inverse, out=out)
