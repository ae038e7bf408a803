"""Picture files of the kinds that people have."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from arcface_pl.errors import UserError
from arcface_pl.preprocessing import IMAGE_SUFFIXES, ImageError, from_pil, is_image, measure_white_level, read_image
from arcface_pl.preprocessing.decoding import FORMATS

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


class TestScale:
    """What becomes white depends on the kind of pixels and on a setting, never on what one image shows."""

    @pytest.mark.parametrize("white", [255, 1023, 4095, 16_383, 65_535])
    @pytest.mark.parametrize("name", ["picture.png", "picture.tif"])
    def test_a_white_level_stretches_integers(self, tmp_path: Path, white: int, name: str) -> None:
        values = np.round(RAMP / 255 * white).astype(np.uint16)
        path = saved(tmp_path, Image.fromarray(values), name)
        assert (read_image(path, 1, white_level=white).int() - chw(RAMP).int()).abs().max() <= 0
        with Image.open(path) as image:
            assert torch.equal(from_pil(image, 1, white_level=white), chw(RAMP))

    def test_a_dark_16_bit_image_stays_dark(self, tmp_path: Path) -> None:
        path = saved(tmp_path, Image.fromarray(RAMP.astype(np.uint16) * 2), "dark.png")
        assert read_image(path, 1).max() == 2

    def test_a_pgm_of_any_depth_has_its_own_white(self, tmp_path: Path) -> None:
        path = tmp_path / "picture.pgm"
        path.write_bytes(b"P5 2 2 4095 " + np.array([0, 1, 2047, 4095], ">u2").tobytes())
        for white in (None, 4095.0):
            assert read_image(path, 1, white_level=white).flatten().tolist() == [0, 0, 127, 255]

    def test_one_pixel_above_white_changes_no_other(self, tmp_path: Path) -> None:
        values = RAMP.astype(np.float32) / 255
        expected = chw(RAMP)
        expected[0, 3, 4] = 255
        for bright in (1.01, 200.0, 1e30):
            values[3, 4] = bright
            path = saved(tmp_path, Image.fromarray(values), "picture.tif")
            assert torch.equal(read_image(path, 1), expected)

    def test_floating_point_on_another_scale(self, tmp_path: Path) -> None:
        path = saved(tmp_path, Image.fromarray(RAMP.astype(np.float32)), "picture.tif")
        assert torch.equal(read_image(path, 1, white_level=255), chw(RAMP))
        with pytest.raises(ImageError, match=r"pixel values around 127\S*, outside 0 \(black\) to 1 \(white\)"):
            read_image(path, 1)
        negative = saved(tmp_path, Image.fromarray(-RAMP.astype(np.float32)), "negative.tif")
        with pytest.raises(ImageError, match="outside 0"):
            read_image(negative, 1)

    @pytest.mark.parametrize(
        ("images", "level"),
        [
            ([RAMP], None),
            ([RAMP.astype(np.uint16), RAMP.astype(np.uint16) * 16], 4095),
            ([RAMP.astype(np.uint16)], 255),
            ([RAMP.astype(np.uint16), RAMP.astype(np.uint16) * 257], 65_535),
            ([RAMP.astype(np.float32) / 255] * 2 + [RAMP.astype(np.float32) / 100], 1),
            ([RAMP.astype(np.float32) / 200, RAMP.astype(np.float32) / 250], 1),  # interpolation overshoots
            ([RAMP.astype(np.float32)], 255),
            ([RAMP.astype(np.float32) * 1.2], 255),
            ([RAMP.astype(np.float32) * 4], 65_535),
            ([RAMP.astype(np.float32), RAMP.astype(np.uint16)], 255),
            ([RAMP.astype(np.float32) / 255, RAMP.astype(np.uint16) * 257], None),
        ],
    )
    def test_a_data_set_has_one_white_level(self, tmp_path: Path, images: list[np.ndarray], level: float) -> None:
        paths = [saved(tmp_path, Image.fromarray(image), f"{n}.tif") for n, image in enumerate(images)]
        (tmp_path / "damaged.tif").write_bytes(paths[0].read_bytes()[:50])
        assert measure_white_level([tmp_path / "damaged.tif", tmp_path / "missing.tif", *paths]) == level

    @pytest.mark.parametrize("white", [4095, 255])
    def test_integers_next_to_floating_point_on_another_scale_are_refused(self, tmp_path: Path, white: int) -> None:
        """At one level for both, one kind would be nearly black."""
        images = [np.round(RAMP / 255 * white).astype(np.uint16), RAMP.astype(np.float32) / 255]
        paths = [saved(tmp_path, Image.fromarray(image), f"{n}.tif") for n, image in enumerate(images)]
        with pytest.raises(
            UserError, match=rf"^data\.white_level: got .* {white} as white .* with 1; expected one level"
        ):
            measure_white_level(paths)

    def test_a_pgm_says_nothing_of_other_files(self, tmp_path: Path) -> None:
        """Pillow has scaled it to 16 bits."""
        (tmp_path / "a.pgm").write_bytes(b"P5 2 2 4095 " + np.array([0, 1, 2047, 4095], ">u2").tobytes())
        twelve = saved(tmp_path, Image.fromarray(RAMP.astype(np.uint16) * 16), "a.tif")
        assert measure_white_level([tmp_path / "a.pgm", twelve]) == 4095
        assert measure_white_level([tmp_path / "a.pgm"]) is None


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
    for side, message in (
        (9_000, "got '9000 x 9000 pixels'; expected at most 64,000,000"),
        (30_000, "got 'a far larger image'; expected at most 64,000,000"),
    ):
        path = saved(tmp_path, Image.new("1", (side, side)))
        with pytest.raises(ImageError, match=message):
            read_image(path, 1)
    small = saved(tmp_path, Image.fromarray(RAMP), "small.png")
    with pytest.raises(ImageError, match="got '30 x 20 pixels'; expected at most 599"):
        read_image(small, 1, max_pixels=599)
    assert read_image(small, 1, max_pixels=600).shape == (1, 20, 30)


def test_every_suffix_of_a_format_that_is_read(tmp_path: Path) -> None:
    kinds = Image.registered_extensions()
    for suffix in IMAGE_SUFFIXES:  # written as Pillow takes the suffix; .pfm has floating point
        image = Image.new("F" if suffix == ".pfm" else "1" if suffix == ".pbm" else "RGB", (20, 20))
        image.save(tmp_path / f"x{suffix}", format=kinds.get(suffix, "BMP"))
        assert read_image(tmp_path / f"x{suffix}", 3).max() == 0
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in {*FORMATS, "MPO", "DIB"}}
    assert known <= set(IMAGE_SUFFIXES) <= known | {".dib"}
    assert is_image("A.JFIF")
    assert not is_image("png")


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "tiff_adobe_deflate", "group4"])
def test_damaged_files_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str], compression: str) -> None:
    """libtiff writes every fault it meets to standard error, past Python."""
    buffer = io.BytesIO()
    image = Image.fromarray(COLOURS)
    (image.convert("1") if compression == "group4" else image).save(buffer, "TIFF", compression=compression)
    random, refused = np.random.default_rng(1), 0
    for _ in range(60):
        broken = bytearray(buffer.getvalue())
        for place in random.integers(0, len(broken), 6):
            broken[place] = int(random.integers(256))
        (tmp_path / "picture.tif").write_bytes(broken)
        try:
            read_image(tmp_path / "picture.tif", 3)
        except ImageError:
            refused += 1
    assert refused > 5
    os.write(2, b"standard error works again")
    assert capfd.readouterr() == ("", "standard error works again")


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    messages = {
        "empty.png": "the file is empty",
        "text.png": "not an image",
        "page.eps": "not an image, or of an unknown kind",
        "missing.png": "there is no such file",
        ".": "a folder; expected a file",
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
