"""Plain softmax on a linear layer, by the same means: the own logit in float64, all other classes in chunks."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from arcface_pl.functional._chunks import Others, others_backward, others_forward
from arcface_pl.functional.checks import check_batch, check_embeddings
from arcface_pl.functional.loss import Reduction, reduce, smooth
from arcface_pl.functional.precision import compute_dtype, full_precision, pair_dtype
from arcface_pl.functional.terms import WHOLE_CELLS

__all__ = ["linear_softmax_loss"]

_LARGE = 2.0**64
"""Embeddings up to this size have float32 logits for any centers that a training gives, and so has the largest float32
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
) -> Tensor:
    r"""Compute the softmax cross-entropy of a linear layer.

    $$L_i = \log\left(1 + e^{S_i - z_{i y_i}}\right), \quad S_i = \log \sum_{j \ne y_i} e^{z_{ij}}, \quad
    z_{ij} = x_i \cdot w_j + b_j$$

    Args:
        embeddings: (B, D) floating point.
        weight: (C, D) floating point.
        labels: (B,) integers in [0, C).
        bias: (C,) floating point, or None.
        label_smoothing: Share of the target that is spread evenly over all C classes, in [0, 1).
        reduction: "mean", "sum" or "none".
        chunk_size: Classes taken at a time; None chooses from the shape and the device.
        check_labels: False skips reading the labels' values, for which a GPU would have to wait.

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
    labels = check_batch(embeddings, labels, weight.shape[0], values=check_labels)
    wide, column = pair_dtype(embeddings.device), labels[:, None]
    with_sum = label_smoothing > 0
    with full_precision(embeddings.device):
        if chunk_size is None and embeddings.shape[0] * weight.shape[0] <= WHOLE_CELLS:
            logits = F.linear(embeddings.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
            own = logits.gather(1, column).squeeze(1)
            rest = logits.scatter(1, column, -math.inf).logsumexp(dim=1)
            rest_sum = logits.scatter(1, column, 0).sum(dim=1) if with_sum else None
        else:
            own, rest, rest_sum = _apply_chunked(
                embeddings, weight, bias, labels, Others(1.0, 1, chunk_size, False), with_sum
            )
        losses = smooth(F.softplus(rest - own), own, rest_sum, label_smoothing, weight.shape[0])
        return reduce(losses, reduction).to(compute_dtype(embeddings, weight))


@torch.compiler.disable
def _apply_chunked(*args: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    return _ChunkedLinear.apply(*args)


def _unit(embeddings: Tensor) -> Tensor:
    # (B, 1), a power of two, so that dividing by it rounds nothing; 1 unless the sample's logits could leave the range
    # of float32, where an infinity less another is no number.
    is_large = embeddings.abs().amax(dim=1, keepdim=True) > _LARGE
    return torch.where(is_large, _LARGE, 1.0).to(embeddings.dtype)


class _ChunkedLinear(torch.autograd.Function):
    """The own logit in float64, all others in chunks: no tensor of batch x classes is ever made."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        others: Others,
        with_sum: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        dtype, wide = compute_dtype(embeddings, weight), pair_dtype(embeddings.device)
        own = (embeddings.to(wide) * weight[labels].to(wide)).sum(dim=1)
        if bias is not None:
            own += bias[labels]
        unit = _unit(embeddings.to(dtype))
        scaled = embeddings.to(dtype) / unit
        rest, rest_sum, _ = others_forward(scaled, weight, labels, others, bias=bias, unit=unit, with_sum=with_sum)
        ctx.save_for_backward(embeddings, weight, bias, labels, rest, unit)
        ctx.others, ctx.dtype = others, dtype
        return own, rest, rest_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_own, grad_rest, grad_sum = grads
        embeddings, weight, bias, labels, rest, unit = ctx.saved_tensors
        with full_precision(embeddings.device):
            grad_embeddings, grad_weight, grad_bias = others_backward(
                embeddings.to(ctx.dtype) / unit,
                weight,
                labels,
                ctx.others,
                None,
                rest,
                grad_rest,
                grad_sum,
                ctx.needs_input_grad[:3],
                bias=bias,
                unit=unit,
            )
        own = grad_own[:, None]
        if grad_embeddings is not None:
            grad_embeddings = (grad_embeddings + own * weight[labels]).to(embeddings.dtype)
        if grad_weight is not None:
            grad_weight.index_add_(0, labels, (own * embeddings).to(weight.dtype))
        if grad_bias is not None:
            grad_bias.index_add_(0, labels, grad_own.to(bias.dtype))
        return grad_embeddings, grad_weight, grad_bias, None, None, None
