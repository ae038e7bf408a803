"""`ElasticAugmentation`: random elastic distortion in addition to rotation, shift and zoom."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from arcface_pl.data.augment import Augmentation, apply_affine
from arcface_pl.functional.checks import check_number

__all__ = ["ElasticAugmentation", "smooth_field"]

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
        """Draw a change per image.

        Args:
            count: Number of images.
            size: Height and width of the images, in pixels.
            generator: Random generator on the CPU.

        Returns:
            (count, 6 + 2 * KNOTS ** 2) float32: a matrix in row-major order, and the knots' displacements, all x before
            all y.
        """
        matrices = super().draw(count, size, generator).flatten(1)
        moves = torch.randn(count, 2 * KNOTS**2, generator=generator) * (self.elastic * 2 / size)
        return torch.cat((matrices, moves), dim=1)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change each image by its own draw.

        Args:
            images: (B, C, H, W), pixel values from 0 to 255, uint8 or floating point.
            draws: What :meth:`draw` returned for them, on their device.

        Returns:
            (B, C, H, W) float32, on the same device.
        """
        height, width = images.shape[-2:]
        moves = draws[:, 6:].reshape(-1, KNOTS**2)
        field = moves @ smooth_field(height, width, draws.dtype, draws.device)
        return apply_affine(images.float(), draws[:, :6].reshape(-1, 2, 3), field.view(-1, 2, height * width))


@cache
def smooth_field(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weigh each knot at each pixel.

    Args:
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        dtype: Floating type of the weights.
        device: Device of the weights.

    Returns:
        (KNOTS ** 2, height * width), both row by row. The squares at a pixel sum to 1, so that independent moves of one
        variance displace every pixel with that variance.
    """
    down, across = (_gaussians(size, dtype, device) for size in (height, width))
    weights = (down[:, None, :, None] * across[None, :, None, :]).reshape(KNOTS**2, height * width)
    return weights / weights.square().sum(dim=0).sqrt()


def _gaussians(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Gaussians around evenly spaced knots, three quarters of their distance wide, at each pixel: (KNOTS, size)."""
    knots, pixels = (
        (torch.arange(count, dtype=dtype, device=device) + 0.5) * (KNOTS / count) for count in (KNOTS, size)
    )
    return torch.exp(-0.5 * ((pixels - knots[:, None]) / 0.75).square())
