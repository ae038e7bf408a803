"""`ElasticAugmentation`: random elastic distortion in addition to rotation, shift and zoom."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from arcface_pl.data.augment import Augmentation, apply_affine
from arcface_pl.functional.checks import check_number

# Knots of the displacement field along each side: at 28 pixels, strokes bend without jitter.
KNOTS = 6


@dataclass(frozen=True)
class ElasticAugmentation(Augmentation):
    """Random rotation, shift, zoom and elastic distortion of training images.

    The displacement field is smooth: K x K knots have independent normal displacements, and a pixel moves by their sum
    weighted with a Gaussian of the distance to each knot.

    Attributes:
        elastic: Standard deviation of the displacement of a pixel along either axis, in pixels, at least 0.

    Raises:
        ValueError: If a value is out of range.

    Reference:
        Simard et al. 2003, Best practices for convolutional neural networks, section 2: random displacements smoothed
        by a Gaussian.
    """

    elastic: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("elastic", self.elastic, low=0)

    def draw(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Draw a change per image, see `Augmentation.draw`.

        Returns:
            (count, 6 + 2 * KNOTS ** 2) float32: a matrix in row-major order, and the knots' displacements, all x before
            all y.
        """
        matrices = super().draw(count, size, generator).flatten(1)
        moves = torch.randn(count, 2 * KNOTS**2, generator=generator) * (self.elastic * 2 / size)
        return torch.cat((matrices, moves), dim=1)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change each image by its own draw, see `Augmentation.apply`.

        Returns:
            (B, C, H, W) float32, on the same device.
        """
        moves = draws[:, 6:].reshape(-1, 2, KNOTS, KNOTS)
        matrices = draws[:, :6].reshape(-1, 2, 3)
        return apply_affine(images.float(), matrices, smooth_field(moves, *images.shape[-2:]))


def drawn_augmentation(rotation: float, shift: float, zoom: float, elastic: float) -> Augmentation:
    """Return the changes of drawn characters: `Augmentation`, or `ElasticAugmentation` where lines are to bend."""
    strengths = rotation, shift, zoom
    return ElasticAugmentation(*strengths, elastic=elastic) if elastic else Augmentation(*strengths)


def smooth_field(moves: Tensor, height: int, width: int) -> Tensor:
    """Interpolate the displacements of the knots.

    Args:
        moves: (..., KNOTS, KNOTS) floating point.
        height: Height of the field, in pixels.
        width: Width of the field, in pixels.

    Returns:
        (..., height, width). The squares of the weights at a pixel sum to 1, so that independent knots of one variance
        displace every pixel with that variance.
    """
    down, across = (_weights(size, moves.dtype, moves.device) for size in (height, width))
    # Not as a matrix product, whose rounding depends on the size of the batch.
    rows = moves[..., 0, None] * across[0]
    for knot in range(1, KNOTS):
        rows += moves[..., knot, None] * across[knot]
    field = rows[..., 0, None, :] * down[0, :, None]
    for knot in range(1, KNOTS):
        field += rows[..., knot, None, :] * down[knot, :, None]
    return field


@cache
def _weights(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Gaussians around evenly spaced knots, three quarters of their distance wide, at each pixel: (KNOTS, size)."""
    knots, pixels = (
        (torch.arange(count, dtype=dtype, device=device) + 0.5) * (KNOTS / count) for count in (KNOTS, size)
    )
    weights = torch.exp(-0.5 * ((pixels - knots[:, None]) / 0.75).square())
    return weights / weights.square().sum(dim=0).sqrt()
