"""Plain softmax on a linear layer, by the same means: the target logit in float64, all other classes in chunks."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arcface_pl.functional.checks import check_batch, check_choice, check_embeddings, check_number
from arcface_pl.functional.derivatives import first_order_only
from arcface_pl.functional.eager import eager
from arcface_pl.functional.loss import Reduction, reduce, smooth
from arcface_pl.functional.non_target import non_target_backward, non_target_forward
from arcface_pl.functional.precision import compute_dtype, full_precision, pair_dtype
from arcface_pl.functional.problem import NonTarget, Problem
from arcface_pl.functional.products import PRECISIONS, Precision
from arcface_pl.functional.terms import WHOLE_CELLS

_LARGE = 2.0**64
"""Embeddings up to this size have finite float32 logits for any centers of a training, and so has the largest float32
divided by it."""


def linear_softmax_loss(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    check_labels: bool = True,
    precision: Precision = "float32",
) -> Tensor:
    r"""Compute the softmax cross-entropy of a linear layer.

    $$L_i = \log\left(1 + e^{S_i - z_{i y_i}}\right), \quad S_i = \log \sum_{j \ne y_i} e^{z_{ij}}, \quad
    z_{ij} = x_i \cdot w_j + b_j$$

    Args:
        embeddings: (B, D) floating point.
        weight: (C, D) floating point.
        labels: (B,) integers in [0, C).
        bias: (C,) floating point, or None.
        label_smoothing: Fraction of the target that is spread evenly over all C classes, in [0, 1).
        reduction: "mean", "sum" or "none".
        chunk_size: Classes per chunk; None chooses from the shape and the device.
        check_labels: False skips reading the labels' values, which makes a GPU wait.
        precision: Of the operands of the non-target classes' matrix products, which are summed in float32: "float32",
            "tf32" (CUDA) or "bfloat16"; float64 arguments and batches of up to 131,072 cosines are not rounded.

    Returns:
        A scalar, or (B,) for "none"; float32, or float64 where an argument is. Embeddings near the largest float32 give
        inf where the loss itself is larger than that, but never NaN, and finite gradients.

    Raises:
        ValueError: A batch that is empty or of the wrong shape or dtype, or a label outside [0, C).

    Example:
        >>> import torch
        >>> embeddings, weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> linear_softmax_loss(embeddings, weight, torch.tensor([0]))
        tensor(0.3133)
    """
    check_embeddings(embeddings, weight)
    check_number("label_smoothing", label_smoothing, low=0, high=1)
    check_choice("precision", precision, PRECISIONS)
    labels = check_batch(embeddings, labels, weight.shape[0], values=check_labels)
    wide, column = pair_dtype(embeddings.device), labels[:, None]
    with_sum = label_smoothing > 0
    with full_precision(embeddings.device):
        if chunk_size is None and embeddings.shape[0] * weight.shape[0] <= WHOLE_CELLS:
            logits = F.linear(embeddings.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
            target = logits.gather(1, column).squeeze(1)
            lse = logits.scatter(1, column, -math.inf).logsumexp(dim=1)
            logit_sum = logits.scatter(1, column, 0).sum(dim=1) if with_sum else None
        else:
            non_target = NonTarget(1.0, 1, chunk_size, False, precision)
            target, lse, logit_sum = _apply_chunked(embeddings, weight, bias, labels, non_target, with_sum)
        losses = smooth(F.softplus(lse - target), target, logit_sum, label_smoothing, weight.shape[0])
        return reduce(losses, reduction).to(compute_dtype(embeddings, weight))


@eager
def _apply_chunked(embeddings: Tensor, weight: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    keeps = torch.is_grad_enabled() and weight.requires_grad
    return _ChunkedLinear.apply(embeddings, weight, *args, keeps)


def _divisor(embeddings: Tensor) -> Tensor:
    # (B, 1), a power of two, so that dividing by it rounds nothing; 1 unless the sample's logits could leave the range
    # of float32, where inf - inf would be NaN.
    is_large = embeddings.abs().amax(dim=1, keepdim=True) > _LARGE
    return torch.where(is_large, _LARGE, 1.0).to(embeddings.dtype)


class _ChunkedLinear(torch.autograd.Function):
    """The target logit in float64, all other classes in chunks: no batch x classes tensor is made."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        non_target: NonTarget,
        with_sum: bool,
        keeps: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        dtype, wide = compute_dtype(embeddings, weight), pair_dtype(embeddings.device)
        target = (embeddings.to(wide) * weight[labels].to(wide)).sum(dim=1)
        if bias is not None:
            target += bias[labels]
        divisor = _divisor(embeddings.to(dtype))
        problem = Problem(embeddings.to(dtype) / divisor, weight, labels, non_target, None, bias, divisor)
        ctx.kept = problem.logits_buffer() if keeps else None
        lse, logit_sum, _ = non_target_forward(problem, with_sum=with_sum, keep=ctx.kept)
        ctx.save_for_backward(embeddings, weight, bias, labels, lse, divisor)
        ctx.non_target, ctx.dtype = non_target, dtype
        return target, lse, logit_sum

    @staticmethod
    @first_order_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_target, grad_lse, grad_sum = grads
        embeddings, weight, bias, labels, lse, divisor = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None  # becomes the gradient; a second backward pass computes the logits again
        problem = Problem(embeddings.to(ctx.dtype) / divisor, weight, labels, ctx.non_target, None, bias, divisor)
        with full_precision(embeddings.device):
            grad_embeddings, grad_weight, grad_bias = non_target_backward(
                problem, None, lse, grad_lse, grad_sum, ctx.needs_input_grad[:3], kept=kept
            )
        coefficient = grad_target[:, None]
        if grad_embeddings is not None:
            grad_embeddings = (grad_embeddings + coefficient * weight[labels]).to(embeddings.dtype)
        if grad_weight is not None:
            grad_weight.index_add_(0, labels, (coefficient * embeddings).to(weight.dtype))
        if grad_bias is not None:
            grad_bias.index_add_(0, labels, grad_target.to(bias.dtype))
        return grad_embeddings, grad_weight, grad_bias, None, None, None, None
