"""Picture files of the kinds that people have."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from arcface_pl.errors import UserError
from arcface_pl.preprocessing import ImageError, read_image

RAMP = np.linspace(0, 255, 20 * 30, dtype=np.uint8).reshape(20, 30)
COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def saved(folder: Path, image: Image.Image, name: str = "picture.png", **kwargs: object) -> Path:
    path = folder / name
    image.save(path, **kwargs)
    return path


def chw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1).copy())


def test_grey_and_colour_as_they_are(tmp_path: Path) -> None:
    grey, colour = (saved(tmp_path, Image.fromarray(each), f"{each.ndim}.png") for each in (RAMP, COLOURS))
    assert torch.equal(read_image(grey, 1), chw(RAMP))
    assert torch.equal(read_image(grey, 3), chw(RAMP).expand(3, -1, -1))
    assert torch.equal(read_image(colour, 3), chw(COLOURS))
    luma = chw(COLOURS).double().mul(torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None]).sum(0)
    assert (read_image(colour, 1)[0].double() - luma).abs().max() <= 1


@pytest.mark.parametrize("name", ["picture.png", "picture.tif", "picture.pgm"])
def test_16_bit_grey_is_scaled_and_not_saturated(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, Image.fromarray(RAMP.astype(np.uint16) * 257), name)
    assert torch.equal(read_image(path, 1), chw(RAMP))
    assert torch.equal(read_image(path, 3), chw(RAMP).expand(3, -1, -1))


def test_8_bit_values_in_a_16_bit_file_are_not_blackened(tmp_path: Path) -> None:
    assert torch.equal(read_image(saved(tmp_path, Image.fromarray(RAMP.astype(np.uint16))), 1), chw(RAMP))


@pytest.mark.parametrize("factor", [1 / 255, 1.0, 1000.0, -1.0])
def test_floating_point_pixels_keep_their_order_and_range(tmp_path: Path, factor: float) -> None:
    path = saved(tmp_path, Image.fromarray(RAMP.astype(np.float32) * factor), "picture.tif")
    expected = RAMP if factor > 0 else 255 - RAMP
    assert (read_image(path, 1).int() - chw(expected).int()).abs().max() <= 1


def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(np.full((4, 4), np.nan, np.float32)), "picture.tif")
    with pytest.raises(ImageError, match="finite"):
        read_image(path, 1)


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "YCbCr", "LAB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_modes_show_black_as_black_and_white_as_white(tmp_path: Path, mode: str, channels: int) -> None:
    halves = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 8, axis=1).repeat(8, axis=0)).convert("RGB")
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(halves, *profiles, outputMode="LAB")
    else:
        image = halves.convert(mode)
    name = {"1": "a.png", "P": "a.png", "LAB": "a.tif"}.get(mode, "a.jpg")
    pixels = read_image(saved(tmp_path, image, name), channels).int()
    assert pixels[..., :6].max() < 12
    assert pixels[..., 10:].min() > 243


def drawn(mode: str, ink: int, how: str) -> Image.Image:
    """A square in ``ink`` on transparent ground."""
    alpha = np.zeros((20, 20), np.uint8)
    alpha[6:14, 6:14] = 255
    image = Image.merge("LA", (Image.new("L", (20, 20), ink), Image.fromarray(alpha)))
    if how == "black ground":
        image.paste((0, 0), (0, 0, 20, 6))
    return image.convert("RGBA").quantize() if mode == "P" else image.convert(mode)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
@pytest.mark.parametrize("ink", [0, 60, 200, 255])
@pytest.mark.parametrize("how", ["flat", "black ground"])
def test_ink_on_transparent_ground_can_be_seen(tmp_path: Path, mode: str, ink: int, how: str) -> None:
    pixels = read_image(saved(tmp_path, drawn(mode, ink, how)), 1)[0].int()
    assert (pixels[6:14, 6:14] - ink).abs().max() <= 2
    outside = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (outside == (255 if ink < 128 else 0)).all()


def test_transparent_frame_around_paper_takes_the_papers_colour(tmp_path: Path) -> None:
    paper = np.full((40, 40), 230, np.uint8)
    paper[10:30, 18:22] = 20
    alpha = np.full((40, 40), 255, np.uint8)
    alpha[:4] = alpha[-4:] = 0
    image = Image.merge("LA", (Image.fromarray(paper), Image.fromarray(alpha)))
    pixels = read_image(saved(tmp_path, image), 1)[0]
    assert (pixels[:4] == 230).all()
    assert torch.equal(pixels[4:-4], torch.from_numpy(paper[4:-4]))


def test_wholly_transparent_picture_is_blank(tmp_path: Path) -> None:
    assert read_image(saved(tmp_path, Image.new("RGBA", (9, 9), (10, 20, 30, 0))), 3).unique().numel() == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_camera_orientation_is_obeyed(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {
        1: RAMP,
        2: RAMP[:, ::-1],
        3: RAMP[::-1, ::-1],
        4: RAMP[::-1],
        5: RAMP.T,
        6: RAMP.T[:, ::-1],
        7: RAMP.T[::-1, ::-1],
        8: RAMP.T[::-1],
    }[orientation]
    assert torch.equal(read_image(saved(tmp_path, Image.fromarray(RAMP), exif=exif), 1), chw(turned))


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(each) for each in (RAMP, 255 - RAMP)]
    path = saved(tmp_path, frames[0], "picture.gif", save_all=True, append_images=frames[1:])
    assert torch.equal(read_image(path, 1), chw(RAMP))


def test_one_pixel(tmp_path: Path) -> None:
    assert read_image(saved(tmp_path, Image.new("L", (1, 1), 7)), 1).tolist() == [[[7]]]


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    for side, message in ((9_000, "9000 x 9000 pixels, but at most 64,000,000"), (30_000, "more than the 64,000,000")):
        path = saved(tmp_path, Image.new("1", (side, side)))
        with pytest.raises(ImageError, match=message):
            read_image(path, 1)
    small = saved(tmp_path, Image.fromarray(RAMP), "small.png")
    with pytest.raises(ImageError, match="30 x 20 pixels, but at most 599 are accepted"):
        read_image(small, 1, max_pixels=599)
    assert read_image(small, 1, max_pixels=600).shape == (1, 20, 30)


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    messages = {
        "empty.png": "the file is empty",
        "text.png": "it is no picture",
        "page.eps": "it is no picture, or of an unknown kind",
        "missing.png": "there is no such file",
        ".": "there is no such file",
    }
    for name, message in messages.items():
        with pytest.raises(ImageError, match=message) as caught:
            read_image(tmp_path / name, 1)
        assert str(tmp_path) in str(caught.value)
        assert isinstance(caught.value, UserError)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "AVIF", "JPEG2000", "PPM", "TGA", "ICO"])
def test_truncated_and_corrupted_files_are_reported_and_never_crash(tmp_path: Path, kind: str) -> None:
    """Cut anywhere, or with bytes changed anywhere: a picture of the right kind, or an ImageError."""
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).save(buffer, kind)
    content, path = buffer.getvalue(), tmp_path / f"picture.{kind}"
    random = np.random.default_rng(1)
    refused = 0
    for trial in range(60):
        broken = bytearray(content)
        if trial < 30:
            del broken[int(random.integers(1, len(content))) :]
        else:
            for place in random.integers(0, min(len(content), 400), 4):
                broken[place] = int(random.integers(256))
        path.write_bytes(broken)
        try:
            pixels = read_image(path, 3)
        except ImageError:
            refused += 1
        else:
            assert (pixels.dtype, pixels.shape[0]) == (torch.uint8, 3)
    assert refused > 5


def test_damaged_exif_does_not_hide_the_picture(tmp_path: Path) -> None:
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + struct.pack("<H", 60000) + b"\xff" * 20
    path = saved(tmp_path, Image.fromarray(RAMP), "picture.png", exif=exif)
    assert torch.equal(read_image(path, 1), chw(RAMP))
