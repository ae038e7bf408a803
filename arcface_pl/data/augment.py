"""Random changes of a whole batch, with a draw of its own for each image."""

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Augmentation", "PictureAugmentation", "adjust_colors", "apply_affine"]


@dataclass(frozen=True)
class Augmentation:
    """How strongly each training image is changed at random.

    Attributes:
        rotation: Largest rotation either way, in degrees, from 0 to 180.
        shift: Largest shift along either axis, in pixels, from 0 to 1000.
        zoom: Largest change of size, as a fraction, in [0, 1).

    Raises:
        ValueError: If a value is out of range.
    """

    rotation: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation: got {self.rotation!r}, accepts degrees from 0 to 180")
        if not 0 <= self.shift <= 1000:
            raise ValueError(f"shift: got {self.shift!r}, accepts pixels from 0 to 1000")
        if not 0 <= self.zoom < 1:
            raise ValueError(f"zoom: got {self.zoom!r}, accepts 0 <= zoom < 1")

    def draw(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Draw one transformation for each of ``count`` images: angle, size and both shifts uniform in their ranges.

        Args:
            count: How many to draw.
            size: Height and width of the images in pixels.
            generator: Source of the draws, on the CPU.

        Returns:
            (count, 2, 3) float32 matrices as :func:`apply_affine` takes them.
        """
        draws = torch.rand(count, 4, generator=generator).mul_(2).sub_(1)
        angle = draws[:, 0] * math.radians(self.rotation)
        # The matrices map output places to input places, so that growing divides.
        cos, sin = (torch.stack((angle.cos(), angle.sin())) / (1 + draws[:, 1] * self.zoom)).unbind()
        x, y = (draws[:, 2:] * (self.shift * 2 / size)).unbind(dim=1)
        return torch.stack((cos, -sin, x, sin, cos, y), dim=1).view(count, 2, 3)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Transform each image by a draw of its own.

        Args:
            images: (B, C, H, W), pixel values from 0 to 255, uint8 or floating point.
            draws: What :meth:`draw` returned for them, on their device.

        Returns:
            (B, C, H, W) float32, on the same device.
        """
        return apply_affine(images.float(), draws)


@dataclass(frozen=True)
class PictureAugmentation(Augmentation):
    """How strongly each training picture is changed at random: mirrored, turned, moved, zoomed, recoloured.

    Attributes:
        flip: Mirror every other image, left to right.
        color: Largest change of brightness, contrast and saturation, as a fraction, in [0, 1).

    Raises:
        ValueError: If a value is out of range.
    """

    flip: bool = True
    color: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.color < 1:
            raise ValueError(f"color: got {self.color!r}, accepts 0 <= color < 1")

    def draw(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Draw one change for each of ``count`` images.

        Args:
            count: How many to draw.
            size: Height and width of the images in pixels.
            generator: Source of the draws, on the CPU.

        Returns:
            (count, 10) float32: a matrix row by row, 1 or 0 for mirrored or not, and the factors of brightness,
            contrast and saturation.
        """
        matrices = super().draw(count, size, generator).flatten(1)
        draws = torch.rand(count, 4, generator=generator)
        mirrored = (draws[:, :1] < 0.5).float() if self.flip else torch.zeros(count, 1)
        return torch.cat((matrices, mirrored, 1 + self.color * (2 * draws[:, 1:] - 1)), dim=1)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change each image by a draw of its own.

        Args:
            images: (B, C, H, W), pixel values from 0 to 255, uint8 or floating point.
            draws: What :meth:`draw` returned for them, on their device.

        Returns:
            (B, C, H, W), on the same device; floating point unless images were only mirrored.
        """
        if self.flip:
            images = torch.where(draws[:, 6, None, None, None] > 0, images.flip(-1), images)
        if self.rotation or self.shift or self.zoom:
            images = apply_affine(images.float(), draws[:, :6].reshape(-1, 2, 3))
        return adjust_colors(images.float(), draws[:, 7:]) if self.color else images


def adjust_colors(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of each image by factors of its own, as torchvision's `adjust_*` do.

    Args:
        images: (B, C, H, W) floating point, pixel values from 0 to 255, grey or RGB.
        factors: (B, 3), at least 0; 1 changes nothing. Saturation does nothing to grey images.

    Returns:
        (B, C, H, W), values from 0 to 255.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(dim=1)
    images = (images * brightness).clamp(0, 255)
    images = torch.lerp(_grey(images).mean(dim=(2, 3), keepdim=True), images, contrast).clamp(0, 255)
    return torch.lerp(_grey(images), images, saturation).clamp(0, 255) if images.shape[1] == 3 else images


def _grey(images: Tensor) -> Tensor:
    """Luma of Rec. 601, (B, 1, H, W)."""
    if images.shape[1] != 3:
        return images
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def apply_affine(images: Tensor, matrices: Tensor, displacement: Tensor | None = None) -> Tensor:
    """Transform each image by a matrix of its own, with bilinear interpolation, and black where nothing was.

    Args:
        images: (B, C, H, W) floating point.
        matrices: (B, 2, 3), from output to input places (x, y, 1) in coordinates that run from -1 to 1 between the
            outer edges of the image.
        displacement: (B, 2, H * W), by how much (x, y) the input place of each output pixel, row by row, is moved
            further in the same coordinates; unset: by nothing.

    Returns:
        (B, C, H, W), of the same type and on the same device.
    """
    count, _, height, width = images.shape
    # One product for the whole batch, with the pixels along its long side: several times faster than F.affine_grid,
    # which multiplies a thin matrix for each image.
    places = _pixel_centers(height, width, images.dtype, images.device)
    grid = (matrices.reshape(-1, 3) @ places).view(count, 2, height * width)
    if displacement is not None:
        grid = grid + displacement
    grid = grid.view(count, 2, height, width).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@cache
def _pixel_centers(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Places (x, y, 1) of all pixels, row by row, as (3, height * width)."""
    x, y = (torch.arange(1 - size, size, 2, dtype=dtype, device=device) / size for size in (width, height))
    return torch.stack((x.repeat(height), y.repeat_interleave(width), torch.ones_like(x).repeat(height)))
