"""Random changes of a batch, with separate random parameters for each image.

The result for an image does not depend on the rest of the batch, to the last bit on a CPU.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from arcface_pl.functional.checks import check_number


class ImageChange(Protocol):
    """Changes each image of a batch by its own draw; see `Augmentation` and `ImageTransform`."""

    def draw(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Draw the random parameters of ``count`` images, (count, ...)."""
        ...

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change images (B, C, H, W) uint8; returns the same shape, values from 0 to 255."""
        ...


@dataclass(frozen=True)
class Augmentation:
    """Random rotation, shift and zoom of training images.

    Attributes:
        rotation: Largest rotation in either direction, in degrees, 0 to 180.
        shift: Largest shift along either axis, in pixels, 0 to 1000.
        zoom: Largest relative change of size, in [0, 1).

    Raises:
        ValueError: If a value is out of range.
    """

    rotation: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0

    def __post_init__(self) -> None:
        check_number("rotation", self.rotation, low=0, high=180, high_open=False)
        check_number("shift", self.shift, low=0, high=1000, high_open=False)
        check_number("zoom", self.zoom, low=0, high=1)

    def draw(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Draw a transformation per image, with uniform angle, size and shifts.

        Args:
            count: Number of images.
            size: Height and width of the images, in pixels.
            generator: Random generator on the CPU.

        Returns:
            (count, 2, 3) float32 matrices for :func:`apply_affine`.
        """
        draws = torch.rand(count, 4, generator=generator).mul_(2).sub_(1)
        angle = draws[:, 0] * math.radians(self.rotation)
        # The matrices map output to input positions, so that enlarging divides.
        cos, sin = (torch.stack((angle.cos(), angle.sin())) / (1 + draws[:, 1] * self.zoom)).unbind()
        x, y = (draws[:, 2:] * (self.shift * 2 / size)).unbind(dim=1)
        return torch.stack((cos, -sin, x, sin, cos, y), dim=1).view(count, 2, 3)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Transform each image by its own draw.

        Args:
            images: (B, C, H, W), pixel values from 0 to 255, uint8 or floating point.
            draws: What :meth:`draw` returned for them, on their device.

        Returns:
            (B, C, H, W) float32, on the same device.
        """
        return apply_affine(images.float(), draws)


@dataclass(frozen=True)
class PictureAugmentation(Augmentation):
    """Random mirroring, rotation, shift, zoom and color changes of training images.

    Attributes:
        flip: Mirror half of the images horizontally.
        color: Largest relative change of brightness, contrast and saturation, in [0, 1).

    Raises:
        ValueError: If a value is out of range.
    """

    flip: bool = True
    color: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("color", self.color, low=0, high=1)

    def draw(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Draw a change per image, see `Augmentation.draw`.

        Returns:
            (count, 10) float32: a matrix in row-major order, 1 or 0 for mirrored or not, and the factors of brightness,
            contrast and saturation.
        """
        matrices = super().draw(count, size, generator).flatten(1)
        draws = torch.rand(count, 4, generator=generator)
        mirrored = (draws[:, :1] < 0.5).float() if self.flip else torch.zeros(count, 1)
        return torch.cat((matrices, mirrored, 1 + self.color * (2 * draws[:, 1:] - 1)), dim=1)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change each image by its own draw, see `Augmentation.apply`.

        Returns:
            (B, C, H, W), on the same device; floating point unless images were only mirrored.
        """
        if self.flip:
            images = torch.where(draws[:, 6, None, None, None] > 0, images.flip(-1), images)
        if self.rotation or self.shift or self.zoom:
            images = apply_affine(images.float(), draws[:, :6].reshape(-1, 2, 3))
        return adjust_colors(images.float(), draws[:, 7:]) if self.color else images


def adjust_colors(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of each image by its own factors, as torchvision's `adjust_*` do.

    Args:
        images: (B, C, H, W) floating point, pixel values from 0 to 255, grey or RGB.
        factors: (B, 3), at least 0; 1 changes nothing. Saturation has no effect on grey images.

    Returns:
        (B, C, H, W), values from 0 to 255.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(dim=1)
    images = (images * brightness).clamp_(0, 255)
    # A sum of integers: the rounding of a floating-point mean depends on the size of the batch, and so does lerp's.
    total = (_grey(images) * 256).round_().int().sum(dim=(2, 3), keepdim=True)
    mean = total.to(images.dtype) / (256 * images.shape[2] * images.shape[3])
    images = images.sub_(mean).mul_(contrast).add_(mean).clamp_(0, 255)
    if images.shape[1] != 3:
        return images
    grey = _grey(images)
    return images.sub_(grey).mul_(saturation).add_(grey).clamp_(0, 255)


def _grey(images: Tensor) -> Tensor:
    """Return the luma of Rec. 601, (B, 1, H, W)."""
    if images.shape[1] != 3:
        return images
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def apply_affine(images: Tensor, matrices: Tensor, displacement: Tensor | None = None) -> Tensor:
    """Transform each image by its own matrix, with bilinear interpolation and black outside.

    Args:
        images: (B, C, H, W) floating point.
        matrices: (B, 2, 3), from output to input positions (x, y, 1), in coordinates from -1 to 1 between the outer
            edges of the image.
        displacement: (B, 2, H, W), additional displacement (x, y) of the input position of each output pixel, in the
            same coordinates; None for none.

    Returns:
        (B, C, H, W), of the same type and on the same device.
    """
    height, width = images.shape[-2:]
    x, y = (_pixel_centers(size, images.dtype, images.device) for size in (width, height))
    # Multiplications and additions per element: the rounding of a matrix product depends on the size of the batch.
    columns = matrices[:, :, :1] * x + matrices[:, :, 2:]
    grid = columns[:, :, None] + (matrices[:, :, 1:2] * y)[..., None]
    if displacement is not None:
        grid += displacement
    grid = grid.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@cache
def _pixel_centers(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.arange(1 - size, size, 2, dtype=dtype, device=device) / size
