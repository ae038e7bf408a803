"""Angles between embeddings and class centers, in radians, exact also where cosines round to 1."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from arcface_pl.metrics.functional.cosine import cosine_block, unit_rows
from arcface_pl.metrics.functional.validation import check_embeddings, check_labels

__all__ = ["TargetAngles", "center_angles", "target_angles"]

_MAX_BLOCK = 1 << 22  # cosines held at a time: 16 MB


class TargetAngles(NamedTuple):
    """Where embeddings lie among the class centers.

    Attributes:
        target: Angle to the center of the own class, (N,), float64, radians in [0, pi].
        nearest_other: Angle to the nearest center of another class, (N,), float64, radians in [0, pi].
        gap: ``nearest_other - target``, (N,), float64; negative where another class's center is nearer.
        nearest_class: The class of that other center, (N,), int64.
    """

    target: Tensor
    nearest_other: Tensor
    gap: Tensor
    nearest_class: Tensor


@torch.no_grad()
def target_angles(embeddings: Tensor, labels: Tensor, centers: Tensor, *, sub_centers: int = 1) -> TargetAngles:
    """Angle of each embedding to its own class, to the nearest other class, and the gap between the two.

    theta_j = arccos(x . w_j / (|x| |w_j|)), computed as 2 atan2(|x - w|, |x + w|) on unit vectors in float64, which
    keeps its precision near 0 and pi where the arc cosine loses half of it. A row of zeros is at pi / 2 from all.

    Args:
        embeddings: (N, D), any real dtype; normalised here.
        labels: Class of each, (N,), any integer dtype, in [0, C).
        centers: Class centers, (C * sub_centers, D), a class's centers adjacent; normalised here. At least two classes.
        sub_centers: Centers for each class; the angle to a class is that to its nearest center.

    Returns:
        Angles in radians, (N,) each, and the nearest other class.

    Raises:
        ValueError: If the shapes do not fit, a label is outside [0, C), there is one class only, or a value is NaN or
            infinite.

    Example:
        >>> import torch
        >>> centers = torch.tensor([[0.0, 2.0], [-1.0, 0.0]])
        >>> angles = target_angles(torch.tensor([[1.0, 1.0]]), torch.tensor([0]), centers)
        >>> [round(float(angle), 4) for angle in angles[:3]]
        [0.7854, 2.3562, 1.5708]
    """
    embeddings, centers = check_embeddings("embeddings", embeddings), check_embeddings("centers", centers)
    labels = check_labels("labels", labels, len(embeddings)).to(embeddings.device)
    centers = centers.to(embeddings.device)
    if embeddings.shape[1] != centers.shape[1]:
        raise ValueError(f"embeddings and centers must agree in D, got {embeddings.shape[1]} and {centers.shape[1]}")
    if sub_centers < 1 or len(centers) % sub_centers:
        raise ValueError(f"sub_centers must divide the number of centers, {len(centers)}, got {sub_centers}")
    num_classes = len(centers) // sub_centers
    if num_classes < 2:
        raise ValueError("centers must hold at least two classes, or no other class is nearest")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels must lie in [0, {num_classes}), got {int(labels.min())} to {int(labels.max())}")
    unit_centers = unit_rows(centers)
    rows = max(1, _MAX_BLOCK // len(centers))
    chunks = []
    for chunk, own_class in zip(embeddings.split(rows), labels.split(rows), strict=True):
        own, other = _nearest_centers(unit_rows(chunk), own_class, unit_centers, sub_centers)
        target, nearest_other = _angle(chunk, centers[own]), _angle(chunk, centers[other])
        chunks.append((target, nearest_other, nearest_other - target, other // sub_centers))
    return TargetAngles(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))


@torch.no_grad()
def center_angles(centers: Tensor) -> Tensor:
    """The angle between every two centers: theta_ij = arccos(w_i . w_j / (|w_i| |w_j|)).

    Args:
        centers: (M, D), any real dtype; normalised here.

    Returns:
        (M, M), float64, radians in [0, pi], symmetric, zeros on the diagonal.

    Raises:
        ValueError: If the shape does not fit or a value is NaN or infinite.

    Example:
        >>> import torch
        >>> center_angles(torch.tensor([[1.0, 0.0], [0.0, 2.0]])).round(decimals=4)
        tensor([[0.0000, 1.5708],
                [1.5708, 0.0000]], dtype=torch.float64)
    """
    unit = F.normalize(check_embeddings("centers", centers).double(), dim=1)
    cosine = (unit @ unit.T).clamp_(-1, 1)
    return ((cosine + cosine.T) / 2).arccos().fill_diagonal_(0)


def _nearest_centers(unit: Tensor, labels: Tensor, centers: Tensor, sub_centers: int) -> tuple[Tensor, Tensor]:
    # Rows of the own class's nearest center and of the nearest one of any other class.
    cosine = cosine_block(unit, centers).view(len(unit), -1, sub_centers)
    row = torch.arange(len(unit), device=unit.device)
    own = labels * sub_centers + cosine[row, labels].argmax(1)
    cosine[row, labels] = -torch.inf
    return own, cosine.flatten(1).argmax(1)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    a, b = F.normalize(a.double(), dim=1), F.normalize(b.double(), dim=1)
    return 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))
