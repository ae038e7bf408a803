"""psi, what each loss puts in the place of the target cosine: it falls everywhere as the angle grows.

Each takes cos(theta), and sin(theta) where the caller knows it more exactly than as ``sqrt(1 - cosine ** 2)``. All are
differentiable any number of times, in the margins too where these are tensors.
"""

import math
from typing import Literal

import torch
from torch import Tensor

Extension = Literal["monotone", "none"]
Number = float | Tensor


def _sine_of(cosine: Tensor) -> Tensor:
    """Return sin(theta) for theta in [0, pi] given cos(theta), with gradient 0 where it has none (cosine +-1)."""
    squared = (1 - cosine) * (1 + cosine)
    inside = squared > 0
    return torch.where(inside, torch.where(inside, squared, 1).sqrt(), 0)


def _angle(cosine: Tensor, sine: Tensor | None) -> Tensor:
    """Return theta in [0, pi]; with the exact sine its gradient is finite everywhere."""
    return torch.atan2(_sine_of(cosine) if sine is None else sine, cosine)


def _falling_cosine(angle: Tensor) -> Tensor:
    """Return cos(angle) on [0, pi] and past it (-1)^k cos(angle) - 2k, k = floor(angle / pi), which never rises."""
    turns = (angle.detach() / math.pi).floor()
    return (1 - 2 * turns.remainder(2)) * angle.cos() - 2 * turns


def arcface_psi(
    cosine: Tensor, margin: Number = 0.5, *, sine: Tensor | None = None, extension: Extension = "monotone"
) -> Tensor:
    r"""Add a margin to the angle between a sample and its class.

    $$\psi(\theta) = \cos(\theta + m) \text{ for } \theta \le \pi - m, \qquad -2 - \cos(\theta + m) \text{ beyond}$$

    Past ``pi - m`` the unguarded cosine rises again, so that an embedding opposite to its class would be rewarded. The
    second branch continues the first with the same value and slope and keeps falling to ``cos(m) - 2``.

    Args:
        cosine: cos(theta) to the target, any shape, floating point, in [-1, 1].
        margin: m in radians, in [0, pi); a number, or a tensor that broadcasts against ``cosine``.
        sine: sin(theta), of the shape of ``cosine``; None computes it.
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
    sine = _sine_of(cosine) if sine is None else sine
    cos_margin = margin.cos() if isinstance(margin, Tensor) else math.cos(margin)
    sin_margin = margin.sin() if isinstance(margin, Tensor) else math.sin(margin)
    shifted = cosine * cos_margin - sine * sin_margin
    if extension == "none":
        return shifted
    # 1 before the joint and -1 beyond; 0 at the joint gives the right value -1 and slope 0, too
    side = (cosine.detach() + cos_margin).sign()
    return side * shifted + (side - 1)


def cosface_psi(cosine: Tensor, margin: Number = 0.35) -> Tensor:
    r"""Subtract a margin from the cosine.

    $$\psi(\theta) = \cos\theta - m$$

    Args:
        cosine: cos(theta) to the target, any shape, floating point, in [-1, 1].
        margin: m, a difference of cosines; a number, or a tensor that broadcasts against ``cosine``.

    Returns:
        A tensor of the broadcast shape.

    Reference:
        Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition (CVPR 2018).

    Example:
        >>> import torch
        >>> cosface_psi(torch.tensor([1.0, 0.0]), 0.25)
        tensor([ 0.7500, -0.2500])
    """
    return cosine - margin


def sphereface_psi(cosine: Tensor, margin: Number = 4.0, *, sine: Tensor | None = None) -> Tensor:
    r"""Multiply the angle between a sample and its class.

    $$\psi(\theta) = (-1)^k \cos(m \theta) - 2k, \qquad k = \lfloor m \theta / \pi \rfloor$$

    Continuous and falling for every m >= 1, whole or not.

    Args:
        cosine: cos(theta) to the target, any shape, floating point, in [-1, 1].
        margin: m, a factor of the angle, at least 1; a number, or a tensor that broadcasts against ``cosine``.
        sine: sin(theta), of the shape of ``cosine``; None computes it.

    Returns:
        A tensor of the broadcast shape.

    Reference:
        Liu et al., SphereFace: Deep Hypersphere Embedding for Face Recognition (CVPR 2017).

    Example:
        >>> import torch
        >>> sphereface_psi(torch.tensor([1.0, 0.0, -1.0]), 4.0)
        tensor([ 1., -3., -7.])
    """
    return _falling_cosine(margin * _angle(cosine, sine))


def combined_psi(
    cosine: Tensor, m1: Number = 1.0, m2: Number = 0.3, m3: Number = 0.2, *, sine: Tensor | None = None
) -> Tensor:
    r"""Put a factor and a margin on the angle and a margin on the cosine.

    $$\psi(\theta) = (-1)^k \cos(m_1 \theta + m_2) - 2k - m_3, \qquad k = \lfloor (m_1 \theta + m_2) / \pi \rfloor$$

    Up to ``m1 * theta + m2 = pi`` this is ``cos(m1 * theta + m2) - m3``; beyond, it keeps falling as SphereFace's psi
    does, so that it is monotone and continuous with its slope. (1, m, 0) gives ArcFace, (1, 0, m) CosFace, (m, 0, 0)
    SphereFace.

    Args:
        cosine: cos(theta) to the target, any shape, floating point, in [-1, 1].
        m1: Factor of the angle, above 0; a number, or a tensor that broadcasts against ``cosine``.
        m2: Radians added to the angle, in [0, pi); likewise.
        m3: Subtracted from the cosine, at least 0; likewise.
        sine: sin(theta), of the shape of ``cosine``; None computes it.

    Returns:
        A tensor of the broadcast shape.

    Reference:
        Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition (CVPR 2019), equation 4.

    Example:
        >>> import torch
        >>> combined_psi(torch.tensor([1.0, 0.0, -1.0]), 1.0, 0.5, 0.25)
        tensor([ 0.6276, -0.7294, -1.3724])
    """
    return _falling_cosine(m1 * _angle(cosine, sine) + m2) - m3


def adaface_psi(cosine: Tensor, quality: Tensor, margin: Number = 0.4, *, sine: Tensor | None = None) -> Tensor:
    r"""Divide a margin between angle and cosine by the quality of the sample.

    $$\psi(\theta) = \cos(\max(\theta - m z, 0)) - (m + m z)$$

    At quality z = -1 this is ArcFace, at 0 CosFace, at 1 a negative angular margin. Where ``theta - m * z`` passes pi,
    psi keeps falling as ArcFace's does.

    Args:
        cosine: cos(theta) to the target, any shape, floating point, in [-1, 1].
        quality: z in [-1, 1], of the shape of ``cosine``.
        margin: m in radians and in cosines alike; a number, or a tensor that broadcasts against ``cosine``.
        sine: sin(theta), of the shape of ``cosine``; None computes it.

    Returns:
        A tensor of the broadcast shape.

    Reference:
        Kim et al., AdaFace: Quality Adaptive Margin for Face Recognition (CVPR 2022).

    Example:
        >>> import torch
        >>> adaface_psi(torch.tensor([0.0, 0.0, 0.0]), torch.tensor([-1.0, 0.0, 1.0]), 0.5)
        tensor([-0.4794, -0.5000, -0.5206])
    """
    angle = _angle(cosine, sine) - margin * quality
    return _falling_cosine(torch.where(angle > 0, angle, 0)) - margin * (1 + quality)
