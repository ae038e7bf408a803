"""Reading a picture file of whatever kind people have."""

import os
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps
from torch import Tensor

from arcface_pl.errors import UserError

__all__ = ["MAX_PIXELS", "ImageError", "from_pil", "read_image"]

MAX_PIXELS = 64_000_000
"""Pixels that a picture may have: telephones take 50 million, and more is rather a mistake or an attack."""

# Formats that Pillow itself decodes: others (EPS) start programs, or are not pictures. JPEG includes a telephone's MPO.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM", "TGA", "PCX", "ICO")

# What Pillow's decoders raise over files that end early, lie about themselves or are no pictures.
_RAISED_OVER_FILES = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    EOFError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    MemoryError,
)


class ImageError(UserError):
    """A picture that cannot be read, or in which nothing is to be seen: the message names the file and the reason."""


def read_image(path: str | Path, channels: int, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a picture file as a person sees it: upright, not transparent, in 8 bits.

    The first frame of an animation or multi-page file. The camera's note of how it was held (EXIF orientation) is
    obeyed. 16-bit grey is divided by 257; floating-point pixels are taken on the scale from 0 to 1 or to 255 where they
    fit it, and are stretched where they do not. What is transparent becomes white behind dark ink, black behind light
    ink, and otherwise the colour that prevails.

    Args:
        path: The file: PNG, JPEG, TIFF, BMP, GIF, WebP, AVIF, JPEG 2000, PPM, TGA, PCX or ICO.
        channels: 1 for grey, 3 for red, green and blue.
        max_pixels: Refuse a picture of more pixels, before decoding it.

    Returns:
        (channels, H, W) uint8.

    Raises:
        ImageError: If the file is missing, no picture, damaged, or too large.
    """
    assert channels in (1, 3), channels
    path = Path(path)
    if not os.path.isfile(path):
        raise ImageError(f"{path}: there is no such file")
    try:
        with warnings.catch_warnings():
            # Pillow's own word on large pictures and odd metadata; the size is checked here.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                _check_size(path, image.size, max_pixels)
                image.load()
                # Some formats know their true size only now.
                _check_size(path, image.size, max_pixels)
                pixels = _pixels(_upright(image), channels)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{path}: {_why_no_picture(path)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: it has far more than the {max_pixels:,} pixels that are accepted") from error
    except PermissionError as error:
        raise ImageError(f"{path}: it cannot be read ({error.strerror})") from error
    except _RAISED_OVER_FILES as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path}: it is damaged or of an unknown kind ({reason})") from error
    return _to_tensor(pixels, channels)


def from_pil(image: Image.Image, channels: int) -> Tensor:
    """Take a picture that is open already as `read_image` takes one from a file.

    Args:
        image: Of any mode.
        channels: 1 for grey, 3 for red, green and blue.

    Returns:
        (channels, H, W) uint8.

    Raises:
        ImageError: If it cannot be decoded.
    """
    try:
        return _to_tensor(_pixels(_upright(image), channels), channels)
    except _RAISED_OVER_FILES as error:
        raise ImageError(f"image: it cannot be decoded ({' '.join(str(error).split())})") from error


def _to_tensor(pixels: np.ndarray, channels: int) -> Tensor:
    # Channels stay beside each other, as they were decoded: a copy saved, and resizing is faster.
    return torch.from_numpy(np.array(pixels.reshape(*pixels.shape[:2], channels))).permute(2, 0, 1)


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(f"{path}: it has {width} x {height} pixels, but at most {max_pixels:,} are accepted")
    if not width * height:
        raise ImageError(f"{path}: it has {width} x {height} pixels")


def _why_no_picture(path: Path) -> str:
    if not path.stat().st_size:
        return "the file is empty"
    return f"it is no picture, or of an unknown kind; accepts {', '.join(FORMATS)}"


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _RAISED_OVER_FILES:
        # Damaged metadata, or one that cannot be written back: the picture itself may be sound.
        turn = _ORIENTATIONS.get(_orientation(image) or 1)
        return image if turn is None else image.transpose(turn)


_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except _RAISED_OVER_FILES:
        return None


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        grey = _to_8_bits(np.asarray(image).astype(np.float64), is_float=image.mode == "F")
        return grey if channels == 1 else np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "LAB":
        lab, srgb = (ImageCms.ImageCmsProfile(ImageCms.createProfile(space)) for space in ("LAB", "sRGB"))
        image = ImageCms.ImageCmsTransform(lab, srgb, "LAB", "RGB").apply(image)
    if image.has_transparency_data:
        image = _opaque(image.convert("RGBA"))
    return np.asarray(image.convert("L" if channels == 1 else "RGB"))


def _to_8_bits(values: np.ndarray, *, is_float: bool) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError("some pixels are no finite numbers")
    low, high = values.min(), values.max()
    if is_float and low >= 0 and high <= 1:
        values = values * 255
    elif low < 0 or high > 65_535:
        values = (values - low) * (255 / (high - low))
    elif high > 255:
        # A 16-bit file may hold 8-bit values; one that holds more is on its own scale.
        values = values / 257
    return values.round().astype(np.uint8)


def _opaque(image: Image.Image) -> Image.Image:
    """Lay an RGBA picture on a background on which it can be seen."""
    alpha = np.asarray(image.getchannel("A"))
    visible = np.asarray(image.convert("RGB"))[alpha > alpha.max() / 2] if alpha.any() else np.zeros((0, 3))
    background = np.array([255, 255, 255])
    if len(visible):
        grey = visible @ np.array([0.299, 0.587, 0.114])
        low, high = np.percentile(grey, [5, 95])
        if high - low > 96:
            # The visible part has ink and paper of its own: go on with the paper.
            background = np.median(visible, axis=0)
        elif grey.mean() > 127.5:
            background = np.array([0, 0, 0])
    canvas = Image.new("RGBA", image.size, (*(int(value) for value in background), 255))
    return Image.alpha_composite(canvas, image)
