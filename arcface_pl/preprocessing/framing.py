"""Resize and frame images for the network."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

# Relative error of a character's size that is accepted.
NEARLY = 0.08
# Range of stroke widths in MNIST, in pixels of a character of 20 pixels.
FINEST, BOLDEST = 2.0, 5.0


def fit_image(image: Tensor, size: int) -> Tensor:
    """Resize the shorter side to ``size`` and crop the center of the longer one.

    Args:
        image: (C, H, W) uint8.
        size: Height and width of the result, in pixels.

    Returns:
        (C, size, size) uint8.
    """
    height, width = image.shape[-2:]
    # Crop a very long image first: its ends are dropped anyway, and resizing them could take all memory.
    most = 8 * min(height, width)
    image = _crop_center(image, min(height, most), min(width, most))
    height, width = image.shape[-2:]
    shorter = min(height, width)
    return _crop_center(_resize(image, int(size * height / shorter), int(size * width / shorter)), size, size)


def frame_object(image: Tensor, size: int) -> Tensor:
    """Frame an object light on dark: resize the longer side to ``size`` and pad the shorter one with black.

    Args:
        image: (C, H, W) uint8, with the background in its corners.
        size: Height and width of the result, in pixels.

    Returns:
        (C, size, size) uint8.
    """
    height, width = image.shape[-2:]
    corner = image[:, :: max(1, height - 1), :: max(1, width - 1)].float().median()
    if corner > 127:
        image = 255 - image
    scale = size / max(height, width)
    image = _resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
    (top, bottom), (left, right) = (((size - side) // 2, (size - side + 1) // 2) for side in image.shape[-2:])
    return F.pad(image, [left, right, top, bottom])


def as_framed(grey: Tensor, box: int) -> Tensor | None:
    """Return an image that is already framed, light on dark and otherwise unchanged; None if it is not framed.

    In a framed image the ground is black or white, and the character has the size and place that `frame_ink` would give
    it. If characters fill the image (``box`` equals the size), every image of that size is framed.

    Args:
        grey: (1, size, size) uint8.
        box: Longer side of a framed character, in pixels.
    """
    size = grey.shape[-1]
    edge = torch.cat([grey[0, 0], grey[0, -1], grey[0, :, 0], grey[0, :, -1]]).float().median()
    light = 255 - grey if edge > 127 else grey
    # Low contrast may be an empty image; `find_ink` decides.
    if int(light.max()) - int(light.min()) < 64:
        return None
    if box == size:
        return light
    if edge not in (0, 255):
        return None
    ink = light[0].numpy()
    (rows, columns) = ndimage.find_objects((ink > 0).astype(np.uint8))[0]
    if abs(box / max(rows.stop - rows.start, columns.stop - columns.start) - 1) > NEARLY:
        return None
    off = np.abs(np.array(ndimage.center_of_mass(ink)) - size / 2).max()
    return light if off <= 1 else None


def frame_ink(ink: np.ndarray, box: int, size: int) -> Tensor:
    """Frame a character as in MNIST: bounding box of ``box`` pixels, center of mass in the image's center.

    Strokes that would be too thin at that size, or so bold that they would merge, are first given a pen's width.

    Args:
        ink: (h, w) float32, 1 for ink and 0 for paper, cropped to the character.
        box: Longer side of the character in the result, in pixels.
        size: Height and width of the result, in pixels; at least ``box``.

    Returns:
        (1, size, size) uint8, light on dark.

    Reference:
        LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition (1998), section III.A.
    """
    # Do not resample a character of nearly that size: it would only blur.
    if abs(box / max(ink.shape) - 1) > NEARLY or max(ink.shape) > size:
        ink = _with_pen_width(ink, box)
        scale = box / max(ink.shape)
        ink = _resize(torch.from_numpy(ink)[None], *(max(1, round(side * scale)) for side in ink.shape))[0].numpy()
        ink = np.clip(ink / max(float(np.percentile(ink[ink > 0.05], 90)), 0.2), 0, 1)
    frame = np.zeros((size, size), np.float32)
    top, left = (
        int(np.clip(round(size / 2 - centre), 0, size - side))
        for centre, side in zip(ndimage.center_of_mass(ink), ink.shape, strict=True)
    )
    frame[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return torch.from_numpy((frame * 255).round().astype(np.uint8))[None]


def _with_pen_width(ink: np.ndarray, box: int) -> np.ndarray:
    mask = ink > 0.5
    pixels = max(ink.shape) / box
    # The mean distance to the edge across a stroke is a quarter of its width.
    deep = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    width = 4 * float(deep[mask].mean()) - 1
    finest, boldest = (each * pixels * box / 20 for each in (FINEST, BOLDEST))
    if width < finest:
        more = (finest - width) / 2
        margin = int(np.ceil(more))
        ink = np.pad(ink, margin)
        far = ndimage.distance_transform_edt(~np.pad(mask, margin))
        return np.maximum(ink, np.clip(more + 0.5 - far, 0, 1)).astype(np.float32)
    if width > boldest:
        less = min((width - boldest) / 2, float(deep.max()) - 1)
        return crop_ink((ink * np.clip(deep - less, 0, 1)).astype(np.float32))
    return ink


def crop_ink(ink: np.ndarray) -> np.ndarray:
    """Crop (H, W) to the bounding box of its ink."""
    rows, columns = (np.flatnonzero((ink > 0.05).any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _crop_center(image: Tensor, height: int, width: int) -> Tensor:
    top, left = (round((side - wanted) / 2) for side, wanted in zip(image.shape[-2:], (height, width), strict=True))
    return image[:, top : top + height, left : left + width]


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize (C, H, W) as torchvision does, whose import takes a second."""
    if image.shape[-2:] == (height, width):
        return image
    # The batch dimension goes where a picture's channels-last memory stays visible: 3 channels are resized at once
    batch = image.movedim(0, -1)[None].movedim(-1, 1)
    return F.interpolate(batch, (height, width), mode="bilinear", antialias=True)[0]
