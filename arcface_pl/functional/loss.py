"""The loss of the whole family: softplus(S - scale * psi), S the log-sum-exp of the non-target logits."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from arcface_pl.errors import expected
from arcface_pl.functional.checks import check_batch, check_choice, check_embeddings, check_number
from arcface_pl.functional.chunked_terms import angular_terms
from arcface_pl.functional.precision import compute_dtype
from arcface_pl.functional.problem import NonTarget, Reweighting
from arcface_pl.functional.products import PRECISIONS, Precision
from arcface_pl.functional.terms import AngularTerms

Reduction = Literal["mean", "sum", "none"]


def reduce(losses: Tensor, reduction: Reduction) -> Tensor:
    """Return the mean, the sum or the losses themselves."""
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def check_scale(scale: float | Tensor) -> None:
    """Check that ``scale`` is a positive number, or a scalar tensor, whose value is not read.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(scale, Tensor):
        check_number("scale", scale, low=0, low_open=True)
    elif scale.ndim or not scale.is_floating_point():
        raise ValueError(expected("scale", f"{scale.dtype} of shape {tuple(scale.shape)}", "a floating-point scalar"))


def smooth(
    losses: Tensor, target: Tensor, logit_sum: Tensor | None, label_smoothing: float, num_classes: int
) -> Tensor:
    """Add label smoothing: the losses grow by how far the target logit is above the mean of all logits."""
    if logit_sum is None:
        return losses
    return losses + label_smoothing * (target - (logit_sum + target) / num_classes)


def loss_of_terms(
    terms: AngularTerms,
    psi: Callable[[Tensor, Tensor], Tensor],
    *,
    scale: float | Tensor,
    label_smoothing: float,
    num_classes: int,
) -> Tensor:
    """Return softplus(S - scale * psi), smoothed, (B,) in the dtype of the terms."""
    target = psi(terms.cosine, terms.sine) * scale
    losses = F.softplus(terms.non_target - target)
    return smooth(losses, target, terms.non_target_sum, label_smoothing, num_classes)


def non_target_logsumexp(
    embeddings: Tensor, weight: Tensor, labels: Tensor, *, scale: float | Tensor, chunk_size: int | None = None
) -> Tensor:
    r"""Compute the log-sum-exp of the scaled cosines to the non-target classes.

    $$S_i = \log \sum_{j \ne y_i} e^{s \cos \theta_{ij}}$$

    Both arguments are normalized. The target is left out before summing, never subtracted afterwards. Classes are taken
    in chunks, in the gradient too, so that memory does not grow with batch x classes. First derivatives only.

    Args:
        embeddings: (B, D) floating point, of any length.
        weight: (C, D) floating point, class centers of any length.
        labels: (B,) integers in [0, C).
        scale: s, positive; a number, or a scalar tensor, which may require a gradient.
        chunk_size: Classes per chunk; None chooses from the shape and the device.

    Returns:
        (B,) float32, or float64 where an argument is; -inf where the target is the only class.

    Raises:
        ValueError: A batch that is empty or of the wrong shape or dtype, or a label outside [0, C).

    Example:
        >>> import torch
        >>> embeddings, weight = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
        >>> non_target_logsumexp(embeddings, weight, torch.tensor([0]), scale=4.0)
        tensor([0.0181])
    """
    check_embeddings(embeddings, weight)
    check_scale(scale)
    labels = check_batch(embeddings, labels, weight.shape[0], values=True)
    terms = angular_terms(embeddings, weight, labels, NonTarget(scale, chunk_size=chunk_size), with_sum=False)
    return terms.non_target.to(compute_dtype(embeddings, weight))


def margin_softmax_loss(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    psi: Callable[[Tensor, Tensor], Tensor],
    *,
    scale: float | Tensor,
    sub_centers: int = 1,
    label_smoothing: float = 0.0,
    reweighting: Reweighting | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    check_labels: bool = True,
    precision: Precision = "float32",
) -> Tensor:
    r"""Compute the softmax cross-entropy in which psi replaces the cosine to the target class.

    $$L_i = \log\left(1 + e^{S_i - s \psi(\theta_{y_i})}\right), \quad S_i = \log \sum_{j \ne y_i} e^{s \cos \theta_j}$$

    The angle to the target, psi and the softplus are computed in float64 (float32 on MPS, which has none). First
    derivatives only; a tensor that requires a gradient may be the ``scale``, without ``reweighting``, or enter through
    ``psi``, such as a learnable margin; it is refused as ``label_smoothing`` or ``reweighting``.

    Args:
        embeddings: (B, D) floating point, of any length.
        weight: (C * K, D) floating point, class centers of any length, a class's K centers adjacent.
        labels: (B,) integers in [0, C).
        psi: Takes cos(theta) and sin(theta) to the target, (B,) each, and returns what replaces the cosine, (B,).
        scale: s, positive; a number, or a scalar tensor, which may require a gradient.
        sub_centers: K; a class's cosine is the largest over its centers.
        label_smoothing: Fraction of the target that is spread evenly over all C classes, in [0, 1).
        reweighting: CurricularFace's threshold and t, for hard non-target classes.
        reduction: "mean", "sum" or "none".
        chunk_size: Classes per chunk; None chooses from the shape and the device.
        check_labels: False skips reading the labels' values, which makes a GPU wait.
        precision: Of the operands of the non-target classes' matrix products, which are summed in float32: "float32",
            "tf32" (CUDA) or "bfloat16"; float64 arguments and batches of up to 131,072 cosines are not rounded.

    Returns:
        A scalar, or (B,) for "none"; float32, or float64 where an argument is.

    Raises:
        ValueError: A batch that is empty or of the wrong shape or dtype, or a label outside [0, C).

    Example:
        >>> import torch
        >>> from arcface_pl.functional import arcface_psi
        >>> embeddings, weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> psi = lambda cosine, sine: arcface_psi(cosine, 0.5, sine=sine)
        >>> margin_softmax_loss(embeddings, weight, torch.tensor([0]), psi, scale=4.0)
        tensor(0.0294)
    """
    check_embeddings(embeddings, weight)
    check_scale(scale)
    check_number("label_smoothing", label_smoothing, low=0, high=1)
    if reweighting is not None and any(value.requires_grad for value in reweighting):
        raise ValueError(expected("reweighting.requires_grad", True, "detached tensors: no gradient flows into it"))
    check_choice("precision", precision, PRECISIONS)
    num_classes = weight.shape[0] // sub_centers
    labels = check_batch(embeddings, labels, num_classes, values=check_labels)
    non_target = NonTarget(scale, sub_centers, chunk_size, precision=precision)
    terms = angular_terms(embeddings, weight, labels, non_target, reweighting, with_sum=label_smoothing > 0)
    losses = loss_of_terms(terms, psi, scale=scale, label_smoothing=label_smoothing, num_classes=num_classes)
    return reduce(losses, reduction).to(compute_dtype(embeddings, weight))
