"""Weights of classes in the loss."""

from typing import Any

import pytest
import torch
from torch import Tensor

from arcface_pl.heads import HEADS, ArcFaceHead, Head

every_head = pytest.mark.parametrize("name", HEADS)
COUNTS = torch.tensor([2, 1, 3])


def build(name: str, **kwargs: object) -> Head:
    torch.manual_seed(0)
    return HEADS[name](4, 3, **kwargs).double().eval()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 4, generator=generator, dtype=torch.float64), torch.tensor([0, 0, 1, 2, 2, 2])


@every_head
def test_a_weight_counts_a_sample_that_many_times(name: str) -> None:
    embeddings, labels = batch()
    weighted, plain = build(name, class_weights=[2.0, 0.0, 3.0]), build(name)
    times = torch.tensor([2, 2, 0, 3, 3, 3])
    repeated = embeddings.repeat_interleave(times, 0), labels.repeat_interleave(times)
    sums = [weighted.loss(embeddings, labels, "sum"), plain.loss(*repeated, "sum")]
    torch.testing.assert_close(sums[0], sums[1])
    gradients = [torch.autograd.grad(value, head.weight) for value, head in zip(sums, (weighted, plain), strict=True)]
    torch.testing.assert_close(gradients[0], gradients[1])
    each = weighted.loss(embeddings, labels, "none")
    torch.testing.assert_close(each, times * plain.loss(embeddings, labels, "none"))
    torch.testing.assert_close(weighted.loss(embeddings, labels), each.mean())
    torch.testing.assert_close(weighted.score(embeddings, labels).loss, each.detach())
    torch.testing.assert_close(weighted(embeddings, labels), plain(embeddings, labels))


@every_head
def test_balanced_classes_add_up_to_the_same_and_to_1_per_image(name: str) -> None:
    embeddings, labels = batch()
    head = build(name, class_weights="balanced")
    torch.testing.assert_close(head.loss(embeddings, labels), build(name).loss(embeddings, labels))
    head.set_class_counts(COUNTS)
    weights = head.loss_weights
    torch.testing.assert_close(weights * COUNTS, torch.full_like(weights, 2.0))
    torch.testing.assert_close(weights[labels].mean(), weights.new_tensor(1.0))
    again = build(name, class_weights="balanced")
    again.load_state_dict(head.state_dict())
    assert torch.equal(again.loss(embeddings, labels), head.loss(embeddings, labels))


def test_a_class_without_images_changes_no_other_weight() -> None:
    head = ArcFaceHead(4, 5, class_weights="balanced")
    head.set_class_counts(torch.tensor([0, 2, 1, 3, 0]))
    assert head.loss_weights.tolist() == [2.0, 1.0, 2.0, pytest.approx(2 / 3), 2.0]
    head.set_class_counts(torch.zeros(5))
    assert head.loss_weights.tolist() == [2.0, 1.0, 2.0, pytest.approx(2 / 3), 2.0]
    with pytest.raises(ValueError, match=r"^counts.shape: got \(4,\); expected \(5,\)"):
        head.set_class_counts(torch.ones(4))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], "class_weights: got '2 numbers'; expected one for each class, 3"),
        ([1.0, -2.0, 1.0], r"class_weights\[1\]: got -2.0; expected a number in \[0, 1e\+12\)"),
        ("inverse", "class_weights: got 'inverse'; expected one of 'equal', 'balanced'"),
    ],
)
@every_head
def test_wrong_weights_are_refused(name: str, weights: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HEADS[name](4, 3, class_weights=weights)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.0] * 3, "class_weights: got 'zeros only'; expected at least one number above 0"),
        ([1e-300] * 3, "class_weights: got 'zeros only'; expected"),  # in float32
        ([1.0, 1e39, 1.0], r"class_weights\[1\]: got 1e\+39; expected a number in \[0, 1e\+12\)"),
        (None, "class_weights: got None; expected 'equal', 'balanced', or a list of numbers"),
        (torch.ones(3), r"class_weights: got tensor\(.*; expected 'equal', 'balanced', or a list of numbers"),
    ],
)
def test_weights_that_teach_nothing_or_overflow_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        ArcFaceHead(4, 3, class_weights=weights)


@pytest.mark.parametrize("count", [float("nan"), float("inf"), -1.0])
def test_counts_are_finite(count: float) -> None:
    for options in ({"class_weights": "balanced"}, {"class_margins": "frequency"}):
        head = ArcFaceHead(4, 3, **options)
        with pytest.raises(ValueError, match=f"^counts: got {count}; expected numbers of images of at least 0"):
            head.set_class_counts(torch.tensor([1.0, count, 2.0]))
