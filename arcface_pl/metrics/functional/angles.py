"""Angles between embeddings and class centers in radians, exact even where cosines round to 1."""

from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.metrics.functional.cosine import cosine_block, unit_rows
from arcface_pl.metrics.functional.validation import (
    check,
    check_embeddings,
    check_labels,
    check_same_width,
    check_whole,
)

_MAX_BLOCK = 1 << 22  # cosines held at a time: 16 MB


class TargetAngles(NamedTuple):
    """Angles between embeddings and class centers.

    Attributes:
        target: Angle to the center of the target class, (N,), float64, radians in [0, pi].
        nearest_other: Angle to the nearest center of any other class, (N,), float64, radians in [0, pi].
        gap: ``nearest_other - target``, (N,), float64; negative where another class's center is nearer.
        nearest_class: Class of that nearest other center, (N,), int64.
    """

    target: Tensor
    nearest_other: Tensor
    gap: Tensor
    nearest_class: Tensor


@torch.no_grad()
def target_angles(embeddings: Tensor, labels: Tensor, centers: Tensor, *, sub_centers: int = 1) -> TargetAngles:
    """Compute the angle of each embedding to its target class and to the nearest other class, and their difference.

    theta_j = arccos(x . w_j / (|x| |w_j|)), computed as 2 atan2(|x - w|, |x + w|) on unit vectors in float64, which is
    precise near 0 and pi, where the arc cosine loses half of the digits. A row of zeros is at pi / 2 from all centers.

    Args:
        embeddings: (N, D), any real dtype; normalized here.
        labels: (N,), any integer dtype, in [0, C).
        centers: (C * sub_centers, D), C >= 2, the centers of a class adjacent; normalized here.
        sub_centers: Centers per class, at least 1; the angle to a class is the angle to its nearest center.

    Returns:
        Angles in radians and the nearest other class, (N,) each.

    Raises:
        ValueError: If shapes do not fit, a label is outside [0, C), C < 2, or a value is NaN or infinite.

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
    check_same_width("centers", centers, embeddings.shape[1])
    check_whole("sub_centers", sub_centers, accepted=(divisor := f"a divisor of the number of centers, {len(centers)}"))
    check(len(centers) % sub_centers == 0, "sub_centers", sub_centers, divisor)
    num_classes = len(centers) // sub_centers
    check(num_classes > 1, "centers", f"{num_classes} class", "centers of at least two classes")
    low, high = int(labels.min()), int(labels.max())
    check(low >= 0 and high < num_classes, "labels", f"{low} to {high}", f"integers in [0, {num_classes})")
    unit_centers = unit_rows(centers).float()
    rows = max(1, _MAX_BLOCK // len(centers))
    chunks = []
    for chunk, target_class in zip(embeddings.split(rows), labels.split(rows), strict=True):
        own, other = _nearest_centers(unit_rows(chunk).float(), target_class, unit_centers, sub_centers)
        target, nearest_other = _angle(chunk, centers[own]), _angle(chunk, centers[other])
        chunks.append((target, nearest_other, nearest_other - target, other // sub_centers))
    return TargetAngles(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))


@torch.no_grad()
def center_angles(centers: Tensor) -> Tensor:
    """Compute the angle between every two centers: theta_ij = arccos(w_i . w_j / (|w_i| |w_j|)).

    Args:
        centers: (M, D), any real dtype; normalized here.

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
    unit = unit_rows(check_embeddings("centers", centers).double())
    cosine = (unit @ unit.T).clamp_(-1, 1)
    return ((cosine + cosine.T) / 2).arccos().fill_diagonal_(0)


def _nearest_centers(unit: Tensor, labels: Tensor, centers: Tensor, sub_centers: int) -> tuple[Tensor, Tensor]:
    # Rows of the target class's nearest center and of the nearest center of any other class
    cosine = cosine_block(unit, centers).view(len(unit), -1, sub_centers)
    row = torch.arange(len(unit), device=unit.device)
    own = labels * sub_centers + cosine[row, labels].argmax(1)
    cosine[row, labels] = -torch.inf
    return own, cosine.flatten(1).argmax(1)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    a, b = unit_rows(a.double()), unit_rows(b.double())
    return 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))
