"""Bringing a picture to the network's size."""

import numpy as np
import torch
import torchvision.transforms.v2.functional as tv
from scipy import ndimage
from torch import Tensor

__all__ = ["fit_image", "frame_ink", "frame_object"]


def fit_image(image: Tensor, size: int) -> Tensor:
    """Bring the shorter side to ``size`` and keep the middle of the longer one.

    Args:
        image: (C, H, W) uint8.
        size: Height and width of the result, in pixels.

    Returns:
        (C, size, size) uint8.
    """
    return tv.center_crop(tv.resize(image, [size], antialias=True), [size, size])


def frame_object(image: Tensor, size: int) -> Tensor:
    """Show one thing light on dark: the longer side is brought to ``size``, the shorter one continued by what is dark.

    Args:
        image: (C, H, W) uint8. Its corners show the background.
        size: Height and width of the result, in pixels.

    Returns:
        (C, size, size) uint8.
    """
    height, width = image.shape[-2:]
    corner = image[:, :: max(1, height - 1), :: max(1, width - 1)].float().median()
    if corner > 127:
        image = 255 - image
    scale = size / max(height, width)
    image = tv.resize(image, [max(1, round(height * scale)), max(1, round(width * scale))], antialias=True)
    return tv.center_crop(image, [size, size])


def frame_ink(ink: np.ndarray, box: int, size: int) -> Tensor:
    """Frame a character as MNIST does: its bounding box to ``box`` pixels, its centre of mass to the image's centre.

    Args:
        ink: (h, w) float32, 1 for ink and 0 for paper, cut to the character.
        box: Longer side of the character in the result, in pixels.
        size: Height and width of the result, in pixels; at least ``box``.

    Returns:
        (1, size, size) uint8, light on dark.

    Reference:
        LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition (1998), section III.A.
    """
    scale = box / max(ink.shape)
    # A character of nearly that size is left as it is: another raster would only blur it.
    if abs(scale - 1) > 0.08:
        shape = [max(1, round(side * scale)) for side in ink.shape]
        ink = tv.resize(torch.from_numpy(ink)[None], shape, antialias=True)[0].numpy()
        ink = np.clip(ink / max(float(np.percentile(ink[ink > 0.05], 90)), 0.2), 0, 1)
    frame = np.zeros((size, size), np.float32)
    top, left = (
        int(np.clip(round(size / 2 - centre), 0, size - side))
        for centre, side in zip(ndimage.center_of_mass(ink), ink.shape, strict=True)
    )
    frame[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return torch.from_numpy((frame * 255).round().astype(np.uint8))[None]
