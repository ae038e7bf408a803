"""Augmentation of pictures, and orders in which every class comes equally often."""

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from arcface_pl.data.augment import Augmentation, PictureAugmentation, adjust_colors
from arcface_pl.data.elastic import ElasticAugmentation
from arcface_pl.data.split import balanced_order


def pictures(count: int, channels: int = 3, size: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, size, size), generator=generator).float()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_torchvisions(channels: int) -> None:
    images = pictures(4, channels)
    factors = torch.tensor([[0.6, 1.3, 0.7], [1.5, 0.5, 1.4], [1.0, 1.0, 1.0], [1.2, 0.9, 0.0]])
    expected = []
    for image, (brightness, contrast, saturation) in zip(images / 255, factors.tolist(), strict=True):
        image = tv.adjust_contrast(tv.adjust_brightness(image, brightness), contrast)
        expected.append(tv.adjust_saturation(image, saturation) if channels == 3 else image)
    assert torch.allclose(adjust_colors(images, factors) / 255, torch.stack(expected), atol=1e-5, rtol=0)


def test_mirroring_alone_moves_pixels_and_changes_none() -> None:
    images, augmentation = pictures(64), PictureAugmentation(flip=True)
    draws = augmentation.draw(64, 12, seeded())
    changed = augmentation.apply(images, draws)
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(changed, images, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(changed, images, strict=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 20 <= sum(mirrored) <= 44
    assert mirrored == draws[:, 6].bool().tolist()


def test_places_change_as_without_mirroring_and_colours() -> None:
    """The affine part is the one that digits are changed by."""
    strengths = {"rotation": 20.0, "shift": 2.0, "zoom": 0.2}
    plain, augmentation = Augmentation(**strengths), PictureAugmentation(**strengths, flip=False)
    images = pictures(8)
    expected = plain.apply(images, plain.draw(8, 12, seeded()))
    assert torch.equal(augmentation.apply(images, augmentation.draw(8, 12, seeded())), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [11, 28, 200])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(rotation=15.0, shift=2.0, zoom=0.2),
        ElasticAugmentation(rotation=15.0, shift=2.0, zoom=0.2, elastic=0.8),
        PictureAugmentation(rotation=10.0, shift=2.0, zoom=0.1, color=0.3),
    ],
    ids=lambda augmentation: type(augmentation).__name__,
)
def test_an_image_is_changed_alike_in_any_company(
    augmentation: Augmentation, threads: int, size: int, channels: int
) -> None:
    """To the last bit: otherwise batches would depend on the number of processes and on the batch size."""
    count = 37
    images, draws = pictures(count, channels, size), augmentation.draw(count, size, seeded())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = augmentation.apply(images, draws)
        for company in (1, 2, 5, 16):
            parts = [
                augmentation.apply(*each) for each in zip(images.split(company), draws.split(company), strict=True)
            ]
            assert torch.equal(torch.cat(parts), together)
    finally:
        torch.set_num_threads(before)


def test_factors_stay_in_their_range_and_fill_it() -> None:
    factors = PictureAugmentation(color=0.2).draw(5000, 12, seeded())[:, 7:]
    assert 0.8 <= float(factors.min()) < 0.801
    assert 1.199 < float(factors.max()) <= 1.2


@pytest.mark.parametrize("color", [-0.1, 1.0, float("nan")])
def test_a_colour_out_of_range_is_named(color: float) -> None:
    with pytest.raises(ValueError, match=r"color.*got "):
        PictureAugmentation(color=color)


class TestBalance:
    def test_every_class_comes_equally_often(self) -> None:
        labels = torch.tensor([0] * 70 + [1] * 5 + [3] * 25)[torch.randperm(100, generator=seeded())]
        order = balanced_order(labels, seeded())
        assert sorted(torch.bincount(labels[order])[[0, 1, 3]].tolist()) == [33, 33, 34]

    def test_no_image_comes_again_before_all_of_its_class_came(self) -> None:
        labels = torch.tensor([0] * 70 + [1] * 5 + [2] * 25)
        times = torch.bincount(balanced_order(labels, seeded()), minlength=100)
        for label in range(3):
            assert int(times[labels == label].max() - times[labels == label].min()) <= 1

    def test_equal_classes_give_a_permutation(self) -> None:
        order = balanced_order(torch.arange(40) % 4, seeded())
        assert torch.equal(order.sort().values, torch.arange(40))
        assert not torch.equal(order, torch.arange(40))

    def test_the_draws_depend_on_the_generator_alone(self) -> None:
        labels = torch.tensor([0] * 9 + [1] * 3)
        assert torch.equal(balanced_order(labels, seeded(1)), balanced_order(labels, seeded(1)))
        assert not torch.equal(balanced_order(labels, seeded(1)), balanced_order(labels, seeded(2)))

    def test_labels_need_not_follow_each_other(self) -> None:
        assert sorted(balanced_order(torch.tensor([7, 2, 5]), seeded()).tolist()) == [0, 1, 2]
