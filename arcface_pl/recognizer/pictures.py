"""Pictures in any form: paths, bytes, open files, PIL images, arrays and tensors, one or many."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from arcface_pl.errors import expected
from arcface_pl.preprocessing import ImageError, Preprocessor, from_array, from_pil, read_image

_ACCEPTED = "a path, bytes, an open file, a PIL image, an array or a tensor"
_SHAPES = "(H, W), (H, W, C), (C, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels"
# Four leading channels would read a batch of four gray pictures as one with transparency
_FIRST, _LAST = (1, 3), (1, 3, 4)


def is_one(images: Any) -> bool:
    """Whether ``images`` is a single picture, not a collection."""
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim != 4
    is_picture = isinstance(images, str | bytes | bytearray | memoryview | os.PathLike | Image.Image | Mapping)
    return is_picture or hasattr(images, "read") or not isinstance(images, Iterable)


def each_picture(images: Any) -> Iterator[Any]:
    """Yield the pictures of a collection, or the one picture.

    Raises:
        ImageError: If the shape of an array (N, ...) has two readings or none.
    """
    if is_one(images):
        yield images
    else:  # a batch in one array is a collection of pictures (C, H, W) or (H, W, C)
        layout = _layout(tuple(images.shape)) if isinstance(images, np.ndarray | Tensor) else None
        for image in images:
            yield image if layout is None else _Laid(image, layout)


def frame(picture: Any, to_input: Preprocessor) -> Tensor | ImageError:
    """Read a picture and frame it for the network; the same picture gives the same result in every form.

    Args:
        picture: A path; bytes of a picture file; a file opened for reading bytes; a PIL image; or an array or tensor
            (H, W), (H, W, C) or (C, H, W): uint8, bool, uint16 with 65,535 for white and floating point with 1 for
            white, or both with the ``white_level`` of the training images, where there is one.
        to_input: The model's.

    Returns:
        (in_channels, image_size, image_size) uint8, or what is wrong with the picture.
    """
    try:
        return to_input.frame(_read(picture, to_input.in_channels, to_input.white_level))
    except ImageError as error:
        return error


class _Laid:
    """A picture of a batch whose layout is known: its own shape may have two readings."""

    def __init__(self, pixels: Any, layout: str) -> None:
        self.pixels, self.layout = pixels, layout


def _read(picture: Any, channels: int, white_level: float | None) -> Tensor:
    layout = picture.layout if isinstance(picture, _Laid) else None
    picture = picture.pixels if isinstance(picture, _Laid) else picture
    if isinstance(picture, np.ndarray | Tensor):
        pixels = _as_array(picture)
        if pixels.ndim == 4 and len(pixels) == 1:
            pixels, layout = pixels[0], _layout(pixels.shape)
        if pixels.ndim not in (2, 3) or not pixels.size:
            raise ImageError(expected("picture", f"shape {pixels.shape}", _SHAPES))
        if pixels.ndim == 3 and (layout or _layout(pixels.shape)) == "first":
            pixels = pixels.transpose(1, 2, 0)
        return from_array(pixels, channels, white_level=white_level)
    if isinstance(picture, Image.Image):
        return from_pil(picture, channels, white_level=white_level)
    if hasattr(picture, "read"):
        picture = _content(picture)
    if isinstance(picture, bytearray | memoryview):
        picture = bytes(picture)
    if not isinstance(picture, str | bytes | os.PathLike):
        raise ImageError(expected("picture", type(picture).__name__, _ACCEPTED))
    return read_image(picture, channels, white_level=white_level)


def _content(file: Any) -> bytes:
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # closed, or not decodable as the text that it was opened as
        raise ImageError(f"picture: {type(file).__name__} cannot be read ({error})") from error
    if not isinstance(content, bytes | bytearray):
        raise ImageError(expected("picture", "a file opened for text", "one opened for bytes, as by open(path, 'rb')"))
    return bytes(content)


def _as_array(pixels: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(pixels, Tensor):
        pixels = pixels.detach().to_dense().cpu()
        return (pixels.float() if pixels.is_floating_point() and pixels.itemsize < 4 else pixels).numpy()
    return np.asarray(pixels)


def _layout(shape: tuple[int, ...]) -> str:
    """Return "first" or "last" for the place of the channels in a picture or batch of them.

    Raises:
        ImageError: If neither or both can be meant.
    """
    first, last = shape[-3], shape[-1]
    if 0 in shape[-3:] or (first not in _FIRST and last not in _LAST):
        gray = (
            "A batch of gray pictures (N, H, W) is images[:, None]" if len(shape) == 3 and 0 not in shape[-3:] else ""
        )
        raise ImageError(expected("picture", f"shape {shape}", _SHAPES, gray))
    if first in _FIRST and last in _LAST:
        height, width = shape[-2], last
        readings = (
            f"one reading: (C, H, W), {first} channels of {height} x {width} pixels, or (H, W, C), {last} channels of "
            f"{first} x {height} pixels"
        )
        raise ImageError(expected("picture", f"shape {shape}", readings, "Give it as a PIL image"))
    return "first" if first in _FIRST else "last"
