"""The loss of the whole family: softplus(rest - scale * psi)."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from arcface_pl.functional._chunks import Hard, Others
from arcface_pl.functional.checks import check_batch, check_choice, check_embeddings
from arcface_pl.functional.precision import compute_dtype
from arcface_pl.functional.terms import AngularTerms, angular_terms

__all__ = ["margin_softmax_loss", "non_target_logsumexp"]

Reduction = Literal["mean", "sum", "none"]


def reduce(losses: Tensor, reduction: Reduction) -> Tensor:
    """Return the mean, the sum or the losses themselves."""
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def smooth(losses: Tensor, own: Tensor, rest_sum: Tensor | None, label_smoothing: float, num_classes: int) -> Tensor:
    """Return the losses with the target spread: they grow by how far the own logit is above the mean of all."""
    if rest_sum is None:
        return losses
    return losses + label_smoothing * (own - (rest_sum + own) / num_classes)


def loss_of_terms(
    terms: AngularTerms,
    psi: Callable[[Tensor, Tensor], Tensor],
    *,
    scale: float,
    label_smoothing: float,
    num_classes: int,
) -> Tensor:
    """Return softplus(rest - scale * psi), smoothed, (B,) in the dtype of the terms."""
    own = psi(terms.cosine, terms.sine) * scale
    return smooth(F.softplus(terms.rest - own), own, terms.rest_sum, label_smoothing, num_classes)


def non_target_logsumexp(
    embeddings: Tensor, weight: Tensor, labels: Tensor, *, scale: float, chunk_size: int | None = None
) -> Tensor:
    r"""Compute the log-sum-exp of the scaled cosines to every class but the own one.

    $$S_i = \log \sum_{j \ne y_i} e^{s \cos \theta_{ij}}$$

    Both arguments are normalised. The own class is left out before summing, never subtracted afterwards, and the
    classes are taken in chunks, in the gradient too, so that memory does not grow with batch x classes.

    Args:
        embeddings: (B, D) floating point, of any length.
        weight: (C, D) floating point, class centers of any length.
        labels: (B,) integers in [0, C).
        scale: s, positive.
        chunk_size: Classes taken at a time; None chooses from the shape and the device.

    Returns:
        (B,) float32, or float64 where an argument is; -inf where there is no other class.

    Raises:
        ValueError: A batch that is empty or of the wrong shape or dtype, or a label outside [0, C).

    Example:
        >>> import torch
        >>> embeddings, weight = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
        >>> non_target_logsumexp(embeddings, weight, torch.tensor([0]), scale=4.0)
        tensor([0.0181])
    """
    check_embeddings(embeddings, weight)
    labels = check_batch(embeddings, labels, weight.shape[0], values=True)
    terms = angular_terms(embeddings, weight, labels, Others(scale, chunk_size=chunk_size), with_sum=False)
    return terms.rest.to(compute_dtype(embeddings, weight))


def margin_softmax_loss(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    psi: Callable[[Tensor, Tensor], Tensor],
    *,
    scale: float,
    sub_centers: int = 1,
    label_smoothing: float = 0.0,
    hard: Hard | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    check_labels: bool = True,
) -> Tensor:
    r"""Compute the softmax cross-entropy in which psi stands in for the cosine to the own class.

    $$L_i = \log\left(1 + e^{S_i - s \psi(\theta_{y_i})}\right), \quad S_i = \log \sum_{j \ne y_i} e^{s \cos \theta_j}$$

    The angle to the own class, psi and the softplus are computed in float64 (float32 on MPS, which has none).

    Args:
        embeddings: (B, D) floating point, of any length.
        weight: (C * K, D) floating point, class centers of any length, a class's K centers adjacent.
        labels: (B,) integers in [0, C).
        psi: Takes cos(theta) and sin(theta) to the own class, (B,) each, and returns what replaces the cosine, (B,).
        scale: s, positive.
        sub_centers: K; a class's cosine is the largest over its centers.
        label_smoothing: Share of the target that is spread evenly over all C classes, in [0, 1).
        hard: CurricularFace's threshold and t, for the re-weighting of hard classes.
        reduction: "mean", "sum" or "none".
        chunk_size: Classes taken at a time; None chooses from the shape and the device.
        check_labels: False skips reading the labels' values, for which a GPU would have to wait.

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
    num_classes = weight.shape[0] // sub_centers
    labels = check_batch(embeddings, labels, num_classes, values=check_labels)
    others = Others(scale, sub_centers, chunk_size)
    terms = angular_terms(embeddings, weight, labels, others, hard, with_sum=label_smoothing > 0)
    losses = loss_of_terms(terms, psi, scale=scale, label_smoothing=label_smoothing, num_classes=num_classes)
    return reduce(losses, reduction).to(compute_dtype(embeddings, weight))
