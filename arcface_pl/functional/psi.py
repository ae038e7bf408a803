"""What each loss puts in the place of the cosine to a sample's own class: one number in, one number out."""

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["arcface_psi"]

Extension = Literal["monotone", "none"]


def sine_of(cosine: Tensor) -> Tensor:
    """Return sin(theta) for theta in [0, pi] given cos(theta), with gradient 0 where it has none (cosine +-1)."""
    squared = (1 - cosine) * (1 + cosine)
    inside = squared > 0
    return torch.where(inside, torch.where(inside, squared, 1).sqrt(), 0)


def arcface_psi(
    cosine: Tensor,
    margin: float | Tensor = 0.5,
    *,
    sine: Tensor | None = None,
    extension: Extension = "monotone",
) -> Tensor:
    r"""Add an angle to the angle between a sample and its class.

    $$\psi(\theta) = \cos(\theta + m) \text{ for } \theta \le \pi - m, \qquad -2 - \cos(\theta + m) \text{ beyond}$$

    Past ``pi - m`` the unguarded cosine rises again, so that an embedding opposite to its class would be rewarded. The
    second branch continues the first with the same value and slope at the joint and falls on to ``cos(m) - 2``.

    Args:
        cosine: cos(theta) to the own class, any shape, floating point, in [-1, 1].
        margin: m in radians, in [0, pi); a number, or a tensor that broadcasts against ``cosine``.
        sine: sin(theta) where it is known more exactly than as ``sqrt(1 - cosine ** 2)``.
        extension: "monotone" as above; "none" for cos(theta + m) at every angle.

    Returns:
        A tensor of the broadcast shape.

    Reference:
        Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition (CVPR 2019), equation 3.

    Example:
        >>> import torch
        >>> arcface_psi(torch.tensor([1.0, 0.0, -1.0]), 0.5)
        tensor([ 0.8776, -0.4794, -1.1224])
    """
    sine = sine_of(cosine) if sine is None else sine
    cos_margin = margin.cos() if isinstance(margin, Tensor) else math.cos(margin)
    sin_margin = margin.sin() if isinstance(margin, Tensor) else math.sin(margin)
    shifted = cosine * cos_margin - sine * sin_margin
    return shifted if extension == "none" else torch.where(cosine >= -cos_margin, shifted, -2 - shifted)
