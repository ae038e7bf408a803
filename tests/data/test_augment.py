import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from arcface_pl.data import Augmentation
from arcface_pl.data.augment import apply_affine

IMAGES = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 255


def matrix(angle: float = 0, zoom: float = 1, x: float = 0, y: float = 0, size: int = 28) -> torch.Tensor:
    cos, sin = math.cos(math.radians(angle)) / zoom, math.sin(math.radians(angle)) / zoom
    return torch.tensor([[cos, -sin, x * 2 / size], [sin, cos, y * 2 / size]]).repeat(len(IMAGES), 1, 1)


def test_the_identity_changes_nothing() -> None:
    torch.testing.assert_close(apply_affine(IMAGES, matrix()), IMAGES, rtol=0, atol=1e-3)
    torch.testing.assert_close(apply_affine(IMAGES.double(), matrix().double()), IMAGES.double(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_exact(turns: int) -> None:
    expected = torch.rot90(IMAGES, turns, dims=(2, 3))
    torch.testing.assert_close(apply_affine(IMAGES, matrix(angle=90 * turns)), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("x", "y"), [(2, 0), (0, -3), (-1, 2), (28, 0)])
def test_whole_pixel_shifts_are_exact_and_black_moves_in(x: int, y: int) -> None:
    padded = F.pad(IMAGES, (28,) * 4)
    expected = padded[:, :, 28 + y : 56 + y, 28 + x : 56 + x]
    torch.testing.assert_close(apply_affine(IMAGES, matrix(x=x, y=y)), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("angle", "zoom"), [(10, 1.0), (-15, 1.1), (45, 0.9), (0, 0.8)])
def test_rotation_and_zoom_are_those_of_torchvision(angle: float, zoom: float) -> None:
    # torchvision measures angles clockwise.
    expected = tv.affine(IMAGES, -angle, [0, 0], zoom, [0.0, 0.0], InterpolationMode.BILINEAR)
    torch.testing.assert_close(apply_affine(IMAGES, matrix(angle=angle, zoom=zoom)), expected, rtol=0, atol=2e-2)


def test_each_image_has_its_own_matrix_and_all_channels_share_it() -> None:
    images = torch.rand(2, 3, 9, 6)
    matrices = torch.stack((matrix()[0], torch.tensor([[-1.0, 0, 0], [0, -1, 0]])))
    result = apply_affine(images, matrices)
    torch.testing.assert_close(result[0], images[0])
    torch.testing.assert_close(result[1], images[1].flip(1, 2))


def draw(**strengths: float) -> torch.Tensor:
    return Augmentation(**strengths).draw(20_000, 28, torch.Generator().manual_seed(3))


def test_the_draws_fill_their_ranges_and_are_independent() -> None:
    matrices = draw(rotation=15, shift=2, zoom=0.1).double()
    cos, sin = matrices[:, 0, 0], matrices[:, 1, 0]
    values = {
        15: torch.atan2(sin, cos).rad2deg(),
        0.1: 1 / torch.hypot(cos, sin) - 1,
        2: matrices[:, 0, 2] * 14,
        -2: matrices[:, 1, 2] * 14,
    }
    for limit, value in values.items():
        assert value.abs().max() <= abs(limit) * (1 + 1e-5)
        scaled = value / abs(limit)
        # Uniform on [-1, 1]: mean 0 and variance 1/3, within five standard errors.
        assert scaled.mean().abs() < 5 / math.sqrt(3 * 20_000)
        assert abs(scaled.var() - 1 / 3) < 5 * math.sqrt(4 / 45 / 20_000)
    correlation = torch.corrcoef(torch.stack(list(values.values()))) - torch.eye(4)
    assert correlation.abs().max() < 5 / math.sqrt(20_000)
    assert torch.equal(matrices[:, 0, 0], matrices[:, 1, 1])
    assert torch.equal(matrices[:, 0, 1], -matrices[:, 1, 0])


def test_no_two_images_have_the_same_draw() -> None:
    assert len(draw(rotation=15, shift=2, zoom=0.1).flatten(1).unique(dim=0)) == 20_000


def test_zero_strength_draws_the_identity() -> None:
    assert torch.equal(draw(), torch.eye(2, 3).expand(20_000, 2, 3))


@pytest.mark.parametrize(
    ("strengths", "message"),
    [
        ({"rotation": -1.0}, "rotation: got -1.0; expected"),
        ({"rotation": math.nan}, "rotation: got nan"),
        ({"shift": -0.5}, "shift: got -0.5; expected"),
        ({"shift": math.inf}, "shift: got inf"),
        ({"zoom": 1.0}, "zoom: got 1.0; expected"),
        ({"zoom": math.nan}, "zoom: got nan"),
    ],
)
def test_strengths_out_of_range_are_refused(strengths: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**strengths)
