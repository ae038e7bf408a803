"""Reading image files."""

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms
from torch import Tensor

from arcface_pl.errors import UserError, expected, listed
from arcface_pl.preprocessing.quiet import silent_stderr, without_warnings
from arcface_pl.preprocessing.white_level import WHITE_FLOAT, WHITE_INTEGER, check_16_bits, likely_level, to_8_bits

MAX_PIXELS = 64_000_000
"""Most pixels an image may have: phones take 50 million; more is probably a mistake or an attack."""

# Formats that Pillow itself decodes, with their suffixes: others (EPS) start programs, or are not images.
_SUFFIXES = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif", ".avifs"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "PCX": (".pcx",),
    "ICO": (".ico",),
}
FORMATS = tuple(_SUFFIXES)
_FORMATS = (*FORMATS, "DIB")  # to Pillow, a BMP without the file's header is another format
IMAGE_SUFFIXES = tuple(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
"""Suffixes of the files that every command reads, in lower case."""


class ImageError(UserError):
    """An image that cannot be read, or that shows nothing; the message names the file and the reason."""


def is_image(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def left_out(suffixes: Mapping[str, int]) -> str:
    """Describe the files of a folder that are not read as images, by suffix.

    Args:
        suffixes: Number of files per suffix.

    Example:
        >>> left_out({".heic": 12, "": 1})
        'left out 13 files that are not images: 12 .heic, 1 without suffix'
    """
    counts = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))
    named = listed([f"{count:,} {suffix or 'without suffix'}" for suffix, count in counts])
    return f"left out {sum(suffixes.values()):,} files that are not images: {named}"


def read_image(
    source: str | os.PathLike[str] | bytes,
    channels: int,
    *,
    white_level: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Read an image file the way a viewer shows it: upright, opaque, 8 bits per channel.

    Reads the first frame of an animation or multi-page file and applies the EXIF orientation. Grey images of more than
    8 bits are scaled so that ``white_level`` becomes 255, and clipped. Transparent areas become white behind dark ink,
    black behind light ink, and otherwise the prevailing color.

    Args:
        source: The file, or its content: PNG, JPEG, TIFF, BMP, GIF, WebP, AVIF, JPEG 2000, PPM, TGA, PCX or ICO.
        channels: 1 for grey, 3 for RGB.
        white_level: Pixel value of white in images of more than 8 bits per channel. None for 65,535 in integer images
            and 1 in floating-point images.
        max_pixels: Refuse larger images before decoding them.

    Returns:
        (channels, H, W) uint8.

    Raises:
        ImageError: If the file is missing, not an image, damaged or too large, or most of it is above white.
    """
    assert channels in (1, 3), channels
    name = _name(source)
    if not isinstance(source, bytes) and not os.path.isfile(source):
        if "://" in str(source):
            raise ImageError(f"{source!s}: an address; expected a file. Download it first")
        raise ImageError(f"{name}: {'a folder; expected a file' if os.path.isdir(source) else 'there is no such file'}")
    try:
        with _opened(source, max_pixels) as image:
            return _to_tensor(image, channels, white_level)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        unknown = f"not an image, or of an unknown kind; expected {', '.join(FORMATS)}"
        is_empty = not (len(source) if isinstance(source, bytes) else os.path.getsize(source))
        raise ImageError(f"{name}: {'the file is empty' if is_empty else unknown}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(expected(name, "a far larger image", f"at most {max_pixels:,} pixels")) from error
    except PermissionError as error:
        raise ImageError(f"{name}: cannot be read: {error.strerror}") from error
    except Exception as error:  # Pillow's decoders raise nearly every kind over damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: damaged or of an unknown kind ({reason})") from error


def from_pil(image: Image.Image, channels: int, *, white_level: float | None = None) -> Tensor:
    """Convert an open image as `read_image` does.

    Args:
        image: Of any mode.
        channels: 1 for grey, 3 for RGB.
        white_level: As in `read_image`.

    Returns:
        (channels, H, W) uint8.

    Raises:
        ImageError: If it cannot be decoded.
    """
    try:
        return _to_tensor(image, channels, white_level)
    except Exception as error:
        raise ImageError(f"image: cannot be decoded ({' '.join(str(error).split())})") from error


def from_array(pixels: np.ndarray, channels: int, *, white_level: float | None = None) -> Tensor:
    """Convert pixels as `read_image` does.

    Args:
        pixels: (H, W) or (H, W, 1, 3 or 4), the fourth channel being opacity: uint8; bool; uint16 or floating point,
            scaled so that ``white_level`` becomes 255, and clipped.
        channels: 1 for grey, 3 for RGB.
        white_level: As in `read_image`.

    Returns:
        (channels, H, W) uint8.

    Raises:
        ImageError: If the dtype is another one, or most of the pixels are outside its range.
    """
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if (kind, size) not in (("b", 1), ("u", 1), ("u", 2)) and kind != "f":
        accepted = "uint8 (0 to 255), bool, uint16 or floating point (0 to 1)"
        raise ImageError(expected("picture", str(pixels.dtype), accepted))
    if kind == "b":
        pixels = pixels * np.uint8(255)
    elif size > 1:
        white = white_level or (WHITE_FLOAT if kind == "f" else WHITE_INTEGER)
        try:
            if kind == "f" and white > 1 and 0 < pixels.max(initial=0) <= 1:
                raise ValueError(f"pixel values from 0 to 1; in the training images {white:g} is white")
            if kind == "u" and white_level is None:
                check_16_bits(pixels)
            pixels = to_8_bits(pixels.astype(np.float64), white)
        except ValueError as error:
            raise ImageError(f"picture: {error}") from error
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return from_pil(Image.fromarray(np.ascontiguousarray(pixels)), channels)


def measure_white_level(sources: Iterable[Path | bytes]) -> float | None:
    """Choose the white level of a data set: 8, 10, 12, 14 or 16 bits; or 1, 255 or 65,535 in floating-point images.

    Args:
        sources: A sample of the files, or their contents. Unreadable ones are ignored.

    Returns:
        For integers, the lowest level that no pixel exceeds. For floating point, the lowest with at least half of the
        images below twice that level: bicubic interpolation leaves pixels above white in every image. None if no image
        has more than 8 bits per channel, or if there are integers up to 65,535 and floating point up to 1, which is
        what `read_image` takes None for. A PGM has its own.

    Raises:
        UserError: If both kinds occur and no level fits both.
    """
    brightest: dict[bool, list[float]] = {}
    for source in sources:
        with suppress(Exception), _opened(source, MAX_PIXELS, lazy=True) as image:
            if _is_deep(image) and not (image.mode != "F" and image.format == "PPM"):
                values = np.asarray(image)
                if np.isfinite(values).all():
                    brightest.setdefault(image.mode == "F", []).append(float(values.max()))
    levels = {is_float: likely_level(is_float, maxima) for is_float, maxima in brightest.items()}
    if len(set(levels.values())) < 2:
        return next(iter(levels.values()), None)
    if levels == {False: WHITE_INTEGER, True: WHITE_FLOAT}:
        return None
    got = f"integer images with {levels[False]:g} as white next to floating-point images with {levels[True]:g}"
    remedy = "Convert the files of one kind, or set a level for all"
    raise UserError(f"data.white_level: got {got}; expected one level for both kinds, or 65535 and 1. {remedy}")


def _name(source: str | os.PathLike[str] | bytes) -> str:
    return "picture" if isinstance(source, bytes) else str(Path(source))


@contextmanager
def _opened(source: str | os.PathLike[str] | bytes, max_pixels: int, *, lazy: bool = False) -> Iterator[Image.Image]:
    """Open an image of an accepted format and size, and decode it, or only those of more than 8 bits if ``lazy``."""
    name = _name(source)
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as stream:
        is_tiff = stream.read(2) in (b"II", b"MM")
        stream.seek(0)
        quiet = silent_stderr() if is_tiff else nullcontext()
        with without_warnings(), quiet, Image.open(stream, formats=_FORMATS) as image:
            _check_size(name, image.size, max_pixels)
            if not lazy or _is_deep(image):
                image.load()
                # Some formats know their true size only now.
                _check_size(name, image.size, max_pixels)
            yield image


def _to_tensor(image: Image.Image, channels: int, white_level: float | None) -> Tensor:
    pixels = _pixels(_upright(image), channels, white_level, image.format)
    # Channels stay interleaved, as decoded: this saves a copy, and resizing is faster.
    return torch.from_numpy(np.array(pixels.reshape(*pixels.shape[:2], channels))).permute(2, 0, 1)


def _check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if not 0 < width * height <= max_pixels:
        accepted = f"at most {max_pixels:,}" if width * height else "at least one"
        raise ImageError(expected(name, f"{width} x {height} pixels", accepted))


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says; ImageOps.exif_transpose fails over other, damaged entries."""
    with suppress(Exception):  # no orientation, or damaged metadata of an image that may be sound
        return image.transpose(_ORIENTATIONS[image.getexif()[ExifTags.Base.Orientation]])
    return image


_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _is_deep(image: Image.Image) -> bool:
    """Whether pixels are grey values of more than 8 bits: integers (I, I;16, ...) or floating point (F)."""
    return image.mode.startswith("I") or image.mode == "F"


def _pixels(image: Image.Image, channels: int, white_level: float | None, file_format: str | None) -> np.ndarray:
    if _is_deep(image):
        if image.mode == "F":
            white = white_level or WHITE_FLOAT
        else:  # Pillow has scaled a PGM of any depth to 16 bits
            white = WHITE_INTEGER if file_format == "PPM" else white_level or WHITE_INTEGER
            if white_level is None and file_format != "PPM":
                check_16_bits(np.asarray(image))
        grey = to_8_bits(np.asarray(image).astype(np.float64), white)
        return grey if channels == 1 else np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "LAB":
        lab, srgb = (ImageCms.ImageCmsProfile(ImageCms.createProfile(space)) for space in ("LAB", "sRGB"))
        image = ImageCms.ImageCmsTransform(lab, srgb, "LAB", "RGB").apply(image)
    if image.has_transparency_data:
        image = _opaque(image.convert("RGBA"))
    return np.asarray(image.convert("L" if channels == 1 else "RGB"))


def _opaque(image: Image.Image) -> Image.Image:
    """Compose an RGBA image with a background on which it can be seen."""
    alpha = np.asarray(image.getchannel("A"))
    visible = np.asarray(image.convert("RGB"))[alpha > alpha.max() / 2] if alpha.any() else np.zeros((0, 3))
    background = np.array([255, 255, 255])
    if len(visible):
        grey = visible @ np.array([0.299, 0.587, 0.114])
        low, high = np.percentile(grey, [5, 95])
        if high - low > 96:
            # The visible part has ink and paper: continue the paper.
            background = np.median(visible, axis=0)
        elif grey.mean() > 127.5:
            background = np.array([0, 0, 0])
    canvas = Image.new("RGBA", image.size, (*(int(value) for value in background), 255))
    return Image.alpha_composite(canvas, image)
