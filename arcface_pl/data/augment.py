"""Random rotation, shift and zoom of a whole batch, with a draw of its own for each image."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["affine_matrices", "apply_affine"]


def affine_matrices(
    count: int, *, rotation: float, shift: float, zoom: float, size: int, generator: torch.Generator
) -> Tensor:
    """Draw one random transformation for each of ``count`` images.

    Args:
        count: How many to draw.
        rotation: Angles are uniform in [-rotation, rotation], in degrees.
        shift: Shifts along either axis are uniform in [-shift, shift], in pixels.
        zoom: Sizes are uniform in [1 - zoom, 1 + zoom] times the image's own.
        size: Height and width of the images in pixels.
        generator: Source of the draws, on the CPU.

    Returns:
        (count, 2, 3) float32 matrices in the form that :func:`apply_affine` takes.
    """
    draws = torch.rand(count, 4, generator=generator).mul_(2).sub_(1)
    angle = draws[:, 0] * math.radians(rotation)
    # The matrices map output places to input places, so a zoom by z divides.
    cos, sin = (torch.stack((angle.cos(), angle.sin())) / (1 + draws[:, 1] * zoom)).unbind()
    offset = draws[:, 2:] * (shift * 2 / size)
    return torch.stack((cos, -sin, offset[:, 0], sin, cos, offset[:, 1]), dim=1).view(count, 2, 3)


def apply_affine(images: Tensor, matrices: Tensor) -> Tensor:
    """Transform each image by its own matrix, with bilinear interpolation and black where nothing was.

    Args:
        images: (B, C, H, W) floating point.
        matrices: (B, 2, 3), from output to input places in coordinates that run from -1 to 1 across the image.

    Returns:
        (B, C, H, W), of the same type.
    """
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
