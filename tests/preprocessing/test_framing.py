"""Size, place and pen of a character; pictures that have them already."""

from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from scipy import ndimage

from arcface_pl import MNISTDataModule
from arcface_pl.preprocessing import Preprocessor, framing
from arcface_pl.preprocessing.framing import as_framed, fit_image, frame_ink, frame_object


def bar(height: int, width: int) -> np.ndarray:
    return np.ones((height, width), np.float32)


def measured(framed: torch.Tensor) -> tuple[int, int, float, float]:
    """Height, width and centre of mass of what is light."""
    ink = framed[0].numpy()
    rows, columns = ndimage.find_objects((ink > 0).astype(int))[0]
    return rows.stop - rows.start, columns.stop - columns.start, *ndimage.center_of_mass(ink)


@pytest.mark.parametrize("shape", [(200, 60), (60, 200), (100, 100), (9, 3)])
def test_longer_side_fills_the_box_and_the_mass_lies_in_the_middle(shape: tuple[int, int]) -> None:
    height, width, y, x = measured(frame_ink(bar(*shape), 20, 28))
    assert max(height, width) == 20
    assert abs(y - 14) <= 0.5
    assert abs(x - 14) <= 0.5


@pytest.mark.parametrize("shape", [(30, 12), (29, 29), (12, 30), (28, 9)])
def test_a_character_hardly_larger_than_the_image_fits_into_it(shape: tuple[int, int]) -> None:
    height, width, _, _ = measured(frame_ink(bar(*shape), 28, 28))
    assert max(height, width) == 28


def test_a_slivers_middle_is_all_that_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    resize = framing.F.interpolate

    def spy(image: torch.Tensor, *arguments: Any, **more: Any) -> torch.Tensor:
        result = resize(image, *arguments, **more)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr(framing.F, "interpolate", spy)
    for shape in ((1, 1, 20_000), (1, 20_000, 1)):
        image = torch.arange(20_000).div(100, rounding_mode="floor").to(torch.uint8).view(shape)
        framed = fit_image(image, 16)
        assert framed.shape == (1, 16, 16)
        assert (framed.int() - 100).abs().max() <= 1
    assert max(sizes) <= 8 * 16 * 16


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_resized_and_cropped_as_by_torchvision(channels: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    for _ in range(60):
        height, width, size = torch.randint(8, 60, (3,), generator=generator).tolist()
        picture = torch.randint(0, 256, (height, width, channels), generator=generator, dtype=torch.uint8).movedim(
            -1, 0
        )
        fitted = tv.center_crop(tv.resize(picture, [size], antialias=True), [size, size])
        dark = 255 - picture if picture[:, :: height - 1, :: width - 1].float().median() > 127 else picture
        scale = size / max(height, width)
        framed = tv.resize(dark, [max(1, round(height * scale)), max(1, round(width * scale))], antialias=True)
        for ours, theirs in (
            (fit_image(picture, size), fitted),
            (frame_object(picture, size), tv.center_crop(framed, [size, size])),
        ):
            assert ours.shape == theirs.shape == (channels, size, size)
            # Equal where torchvision, too, resizes bytes; without AVX2 it resizes float32 and rounds once, not twice
            assert (ours.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize("pen", [1, 2, 4, 10])
def test_fine_strokes_come_out_two_pixels_wide(pen: int) -> None:
    ink = np.zeros((200, 120), np.float32)
    ink[:pen], ink[-pen:], ink[:, :pen], ink[:, -pen:] = 1, 1, 1, 1
    middle = frame_ink(ink, 20, 28)[0, 14].float() / 255
    assert middle.sum() == pytest.approx(4, abs=0.8)
    assert middle.max() > 0.7


def test_bold_strokes_become_finer_and_a_pens_stay() -> None:
    ring = np.hypot(*np.mgrid[-100:100, -100:100])
    widths = [
        float((frame_ink((np.abs(ring - 98 + pen / 2) < pen / 2).astype(np.float32), 20, 28)[0, 14] / 255).sum()) / 2
        for pen in (30, 80)
    ]
    assert widths[0] == pytest.approx(3, abs=0.5)
    assert 4 < widths[1] < 6.5


def test_digits_that_are_framed_come_back_bit_for_bit_from_either_polarity() -> None:
    data = MNISTDataModule(dataset="digits")
    data.prepare_data()
    data.setup("test")
    ink = Preprocessor.from_dict(data.preprocessing)
    images, _ = data.test_dataloader().data
    same = 0
    for image in images[:100]:
        once = ink.frame(image)
        assert (ink.frame(255 - image).int() - once.int()).abs().max() <= 1
        if torch.equal(once, image):
            same += 1
            assert torch.equal(ink.frame(255 - image), image)
    assert same >= 40


def test_what_is_not_framed_is_not_taken_for_it() -> None:
    framed = frame_ink(bar(200, 60), 20, 28)
    assert torch.equal(as_framed(framed, 20), framed)  # type: ignore[arg-type]
    assert torch.equal(as_framed(255 - framed, 20), framed)  # type: ignore[arg-type]
    small = frame_ink(bar(60, 20), 14, 28)
    for other in (torch.roll(framed, 3, 2), small, torch.zeros(1, 28, 28, dtype=torch.uint8)):
        assert as_framed(other, 20) is None
    # Where characters fill the image there is nothing to be moved
    assert torch.equal(as_framed(small, 28), small)  # type: ignore[arg-type]


def test_an_object_keeps_its_shape_on_dark_ground() -> None:
    image = torch.full((1, 100, 50), 250, dtype=torch.uint8)
    image[:, 20:80, 10:40] = 30
    framed = frame_object(image, 28)
    assert framed.shape == (1, 28, 28)
    assert framed[0, 14, 14] > 200
    assert framed[0, :, 0].max() == 0
    assert (frame_object(255 - image, 28).int() - framed.int()).abs().max() <= 1
