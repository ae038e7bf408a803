"""Wrong labels on made-up embeddings, where angles and ranks are known, and images that two classes share."""

import math

import pytest
import torch
from torch import Tensor

from arcface_pl import ArcFaceHead, LinearHead
from arcface_pl.evaluation.label_noise import find_twins, folds_of, label_angles, thumbnails
from arcface_pl.heads import HEADS


def at(*degrees: float) -> Tensor:
    """Unit vectors in the plane."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def head_with(centers: Tensor, num_classes: int, **arguments: int) -> ArcFaceHead:
    head = ArcFaceHead(centers.shape[1], num_classes, **arguments)
    head.weight.data.copy_(3 * centers)
    return head


def test_angles_and_ranks_to_the_centers_of_a_head() -> None:
    head = head_with(at(0, 90, 200), 3)
    found = label_angles(2 * at(10, 80, 150, 210), torch.tensor([0, 0, 1, 2]), head)
    torch.testing.assert_close(found.target, torch.tensor([10.0, 80, 60, 10]).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.nearest_other, torch.tensor([80.0, 10, 50, 120]).double(), atol=1e-4, rtol=0)
    assert found.nearest_class.tolist() == [1, 1, 2, 1]
    assert found.ranked().tolist() == [1, 2, 0, 3]  # scores 70, 10, -70, -110
    assert found.is_dominant.all()


@pytest.mark.parametrize("name", sorted(HEADS))
def test_every_head_judges(name: str) -> None:
    head = HEADS[name](2, 3)
    head.weight.data.copy_(at(0, 90, 200))
    found = label_angles(at(10, 80), torch.tensor([0, 0]), head)
    torch.testing.assert_close(found.score, torch.tensor([-70.0, 70]).double(), atol=1e-4, rtol=0)


def test_a_sub_center_that_gathers_wrong_labels_does_not_hide_them() -> None:
    # Class 0 has most images at 0 degrees; its second center sits on two images of class 1, at 90 degrees
    head = head_with(at(0, 92, 90, 250), 2, sub_centers=2)
    found = label_angles(at(1, -2, 3, 92, 91, 89, 90), torch.tensor([0, 0, 0, 0, 0, 1, 1]), head)
    assert found.is_dominant.tolist() == [True, True, True, False, False, True, True]
    assert set(found.ranked()[:2].tolist()) == {3, 4}
    torch.testing.assert_close(found.target[3:5], torch.tensor([92.0, 91]).double(), atol=1e-4, rtol=0)
    assert found.nearest_class.tolist() == [1, 1, 1, 1, 1, 0, 0]


def test_without_a_head_an_image_does_not_count_for_its_own_mean() -> None:
    labels = torch.tensor([4, 4, 4, 7, 7, 9])  # classes without images do not matter
    found = label_angles(at(0, 20, 100, 100, 110, 180), labels)
    means = {4: (at(20) + at(100), at(0) + at(100), at(0) + at(20)), 7: (at(110), at(100))}
    rest = torch.cat([*means[4], *means[7]])
    expected = torch.nn.functional.cosine_similarity(at(0, 20, 100, 100, 110), rest).double().acos().rad2deg()
    torch.testing.assert_close(found.target[:5], expected, atol=1e-3, rtol=0)
    assert math.isnan(found.target[5])  # the only image of its class: nothing to compare it with
    assert found.ranked()[0] == 2
    assert found.ranked()[-1] == 5
    assert found.nearest_class.tolist() == [7, 7, 7, 4, 9, 7]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_folds_are_even_over_all_and_in_each_class(count: int) -> None:
    labels = torch.tensor([0] * 10 + [1] * 3 + [2] * 8)[torch.randperm(21, generator=torch.Generator().manual_seed(0))]
    folds = folds_of(labels, count, seed=1)
    for chosen in (folds, *(folds[labels == label] for label in range(3))):
        sizes = torch.bincount(chosen, minlength=count)
        assert sizes.max() - sizes.min() <= 1
    assert not folds.equal(folds_of(labels, count, seed=2))


def test_images_that_two_classes_share() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 32, 32, generator=generator)
    images[5] = images[0]  # identical, another class
    images[6] = (0.5 * images[1] + 0.3 + 0.001 * images[2]).clamp(0, 1)  # darker, flatter: alike, another class
    images[3] = images[2]  # identical, the same class
    images[4] = images[7] = 0.5  # of one color: identical, another class
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    digests = [each.numpy().tobytes() for each in images]
    small = thumbnails(images)
    twins = find_twins(small, digests, labels, 0.98)
    assert twins.image.tolist() == [5, 6, -1, -1, 7, 0, 1, 4]
    assert [pair[:2] for pair in twins.pairs()] == [(0, 5), (4, 7), (1, 6)]
    exact = find_twins(small, digests, labels, 1)
    assert exact.image.tolist() == [5, -1, -1, -1, 7, 0, -1, 4]
    # By an independent computation
    flat = torch.nn.functional.interpolate(images, scale_factor=0.5, mode="area").flatten(1)
    assert twins.similarity[1] == pytest.approx(float(torch.corrcoef(flat[[1, 6]])[0, 1]), abs=1e-5)


def test_one_image_in_three_classes_has_a_twin_in_each() -> None:
    twins = find_twins(torch.zeros(4, 2), [b"a"] * 4, torch.tensor([0, 1, 2, 0]), 0.9)
    assert twins.image.tolist() == [1, 0, 0, 1]


def test_softmax_centers_are_directions() -> None:
    head = LinearHead(2, 2)
    head.weight.data.copy_(torch.tensor([[5.0, 0.0], [0.0, 0.1]]))
    assert head.bias is not None
    head.bias.data.copy_(torch.tensor([0.0, 100.0]))
    found = label_angles(at(30), torch.tensor([0]), head)
    assert float(found.score) == pytest.approx(-30, abs=1e-4)


def test_twins_at_the_bound_count_and_none_is_minus_one() -> None:
    # Cosines that are exact in float32
    small = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], [0, 0, -1, 0], [0, 0, 0, -1]])
    twins, similarity = find_twins(small, [b"0", b"1", b"2", b"3"], torch.arange(4), 0.5)
    assert twins.tolist() == [1, 0, -1, -1]
    assert similarity.tolist() == [0.5, 0.5, 0, 0]
    rows = torch.nn.functional.normalize(torch.randn(40, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    digests = [b"%d" % number for number in range(80)]
    _, similarity = find_twins(rows.repeat(2, 1), digests, torch.arange(80), 0.9)
    assert similarity.max() == 1  # not a rounding more
