import pytest
import torch
from torchvision import transforms

from arcface_pl.preprocessing.normalize import normalize_images

PIXELS = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), ((0.0, 0.0, 0.0), (0.5, 1.0, 1.0))],
)
def test_it_is_what_torchvision_does_bit_for_bit(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    reference = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    expected = torch.stack([reference(image.permute(1, 2, 0).numpy()) for image in PIXELS])
    assert torch.equal(normalize_images(PIXELS, mean, std), expected)


def test_floating_point_pixels_are_taken_and_left_alone() -> None:
    pixels = PIXELS.float()
    result = normalize_images(pixels, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert torch.equal(result, normalize_images(PIXELS, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    assert torch.equal(pixels, PIXELS.float())


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.1,), (1.0, 1.0, 1.0), "mean: got .*; expected 3 values, one per channel"),
        ((0.0, 0.0, 0.0), (1.0,), "std: got .*; expected 3 values, one per channel"),
        ((0.0, 0.0, 0.0), (1.0, 0.0, 1.0), "std: got .*; expected values above 0"),
    ],
)
def test_what_does_not_fit_is_refused(mean: tuple[float, ...], std: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalize_images(PIXELS, mean, std)
