"""What is found in drawings and made-up photographs, and that nothing is found where nothing is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from drawings import on_canvas, page, photographed, put, ruled, written
from PIL import Image

from arcface_pl.preprocessing import ImageError, Preprocessor, from_pil, read_image
from arcface_pl.preprocessing.drawing.ink import find_ink
from arcface_pl.preprocessing.drawing.paper import find_paper, shrink
from arcface_pl.preprocessing.drawing.rules import without_rules

INK = Preprocessor(28, 1, (0.1307,), (0.3081,), "ink")
FIVE = np.asarray(written(5, 120, np.random.default_rng(5)))


def canvas(glyph: np.ndarray = FIVE, size: int = 280, top: int = 70, left: int = 90) -> np.ndarray:
    pixels = np.full((size, size), 255, np.uint8)
    pixels[top : top + glyph.shape[0], left : left + glyph.shape[1]] -= glyph
    return pixels


def frame(pixels: np.ndarray) -> torch.Tensor:
    return INK.frame(torch.from_numpy(pixels.copy())[None])[0]


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference of two frames' pixels in grey levels, after a blur of 3 x 3 and a shift by at most a pixel."""
    blurred = [torch.nn.functional.avg_pool2d(each[None].float(), 3, 1, 1) for each in (one, other)]
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return min(float((blurred[0].roll(each, (1, 2)) - blurred[1]).abs().max()) for each in shifts)


def test_inverted_is_the_same_to_a_grey_level() -> None:
    assert (frame(canvas()).int() - frame(255 - canvas()).int()).abs().max() <= 1


@pytest.mark.parametrize(("top", "left"), [(3, 3), (150, 10), (8, 180), (140, 170)])
def test_moved_is_the_same(top: int, left: int) -> None:
    assert torch.equal(frame(canvas(top=top, left=left)), frame(canvas()))


@pytest.mark.parametrize("side", [45, 90, 240, 600])
def test_drawn_larger_or_smaller_is_nearly_the_same(side: int) -> None:
    glyph = np.asarray(written(5, side, np.random.default_rng(5)))
    other = canvas(glyph, size=3 * side, top=side, left=side)
    assert difference(frame(other), frame(canvas())) < 50


@pytest.mark.parametrize("margin", [0, 1, 2, 5, 400])
def test_margin_hardly_matters(margin: int) -> None:
    assert difference(frame(np.pad(255 - FIVE, margin, constant_values=255)), frame(canvas())) < 50


@pytest.mark.parametrize(("ink", "ground"), [(0, 90), (255, 150), (120, 200), (60, 20)])
def test_contrast_does_not_matter(ink: int, ground: int) -> None:
    pixels = (canvas() / 255 * (ground - ink) + ink).round().astype(np.uint8)
    assert difference(frame(pixels), frame(canvas())) < 12


def test_transparent_ground_16_bit_and_a_turned_camera_show_the_same(tmp_path: Path) -> None:
    expected = frame(canvas())
    mask = Image.fromarray(255 - canvas())
    clear = Image.merge("LA", (Image.new("L", mask.size, 0), mask))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(canvas()).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(canvas().astype(np.uint16) * 257).save(tmp_path / "deep.png")
    clear.save(tmp_path / "clear.png")
    for name in ("turned.png", "deep.png", "clear.png"):
        assert torch.equal(INK.frame(read_image(tmp_path / name, 1))[0], expected), name


@pytest.mark.parametrize("light", [0, 1, 100, 254, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (28, 28), (60, 300), (300, 400), (2, 2000)])
def test_one_colour_is_nothing(light: int, shape: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="nothing is drawn"):
        frame(np.full(shape, light, np.uint8))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [2, 10, 40])
@pytest.mark.parametrize("shape", [(28, 28), (200, 300), (640, 480)])
def test_noise_is_nothing(shape: tuple[int, int], spread: int, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(128, spread, shape)
    with pytest.raises(ImageError, match="nothing is drawn"):
        frame(np.clip(noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("seed", range(4))
def test_empty_pages_are_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    blank = photographed(page(rng), rng)
    empty = Image.new("L", (1, 1))
    lines = ruled(lambda side: empty, rng, squared=seed % 2 == 0)
    for picture in (blank, lines):
        with pytest.raises(ImageError, match="nothing is drawn"):
            INK.frame(from_pil(picture, 1))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (3, 3), (1, 3000), (3000, 1), (5, 700), (64, 64), (65, 29)])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_pixels_there_is_a_frame_or_an_error(shape: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.choice(np.array([0, 255, 128], np.uint8), shape, p=[[0.9, 0.1, 0], [0.05, 0.9, 0.05]][seed % 2])
    if seed > 3:
        pixels = np.sort(pixels, axis=seed % 2)
    try:
        result = frame(pixels)
    except ImageError:
        return
    assert result.shape == (28, 28)
    assert result.max() > 0


def test_shadows_edge_is_no_ink() -> None:
    rng = np.random.default_rng(2)
    pixels = np.asarray(put(page(rng), written(8, 250, rng), rng, (20, 20, 20)).convert("L"), np.float32)
    expected = frame(pixels.astype(np.uint8))
    pixels[:, :200] *= 0.6
    assert difference(frame(pixels.astype(np.uint8)), expected) < 60


def test_rules_are_taken_off_and_what_crosses_them_stays() -> None:
    """Ink on a rule is darker, ink beside it is untouched, and the rule is gone."""
    contrast = np.zeros((300, 240), np.float32)
    clean = contrast.copy()
    clean[60:240, 100:112] = 150
    contrast = clean.copy()
    for row in range(20, 300, 40):
        for column in range(240):
            at = row + round(0.05 * (column - 120))
            if at < 300:
                contrast[at : at + 2, column] += 50
    found = without_rules(contrast, 8)
    stroke = clean > 0
    assert found[~stroke].max() == 0
    assert found[stroke].min() >= 150
    assert np.array_equal(without_rules(clean, 8), clean)


def test_a_line_alone_is_a_1_that_fills_its_picture_and_two_are_rules() -> None:
    one = np.full((200, 90), 255, np.uint8)
    for row in range(200):
        at = 40 + row // 40
        one[row, at : at + 5] = 0
    assert frame(one)[14].float().sum() > 255
    crossed = one.copy()
    crossed[90:94] = 0
    for rules in (np.minimum(one, np.roll(one, 30, axis=1)), crossed):
        with pytest.raises(ImageError, match="nothing is drawn"):
            frame(rules)


def test_paper_is_found_under_a_digit_that_fills_the_picture() -> None:
    rows, columns = np.mgrid[-1:1:200j, -1:1:160j]
    paper = (200 - 30 * rows + 15 * columns - 25 * rows * columns - 30 * columns**2).astype(np.float32)
    grey = paper.copy()
    grey[20:180, 20:140] -= 120
    found, noise = find_paper(grey)
    assert np.abs(found - paper).max() < 1
    assert noise < 1


def test_local_median_keeps_a_shadows_edge() -> None:
    paper = np.where(np.arange(320)[None, :] < 130, 110.0, 220.0).repeat(300, axis=0).astype(np.float32)
    grey = paper.copy()
    grey[100:200, 200:215] = 40
    found, _ = find_paper(grey)
    assert (np.abs(found - paper) > 10).mean() < 0.02


def test_shrinking_averages_whole_blocks() -> None:
    grey = np.random.default_rng(0).random((130, 61)).astype(np.float32)
    small = shrink(grey, 44)
    assert small.shape == (43, 20)
    assert small[5, 7] == pytest.approx(grey[15:18, 21:24].mean(), abs=1e-6)
    assert shrink(grey, 130) is grey


def test_ink_is_a_share_cut_to_what_is_drawn() -> None:
    ink = find_ink(canvas().astype(np.float32))
    assert ink is not None
    assert np.abs(np.array(ink.shape) - FIVE.shape).max() <= 2
    assert (ink.min(), ink.max(), ink.dtype) == (0, 1, np.float32)
    for side in (ink[0], ink[-1], ink[:, 0], ink[:, -1]):
        assert side.max() > 0


def test_drawings_from_a_web_page_are_found_wherever_they_are() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        picture = on_canvas(lambda side, rng=rng: written(3, side, rng), rng)  # type: ignore[misc]
        framed = INK.frame(from_pil(picture, 1))[0]
        rows, columns = (framed > 0).any(1).nonzero().flatten(), (framed > 0).any(0).nonzero().flatten()
        assert 18 <= int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1 <= 20
