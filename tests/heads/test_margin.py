"""Warm-up of the margin, and margins by class frequency."""

import copy

import pytest
import reference
import torch
from torch import Tensor

from arcface_pl.heads import (
    HEADS,
    ArcFaceHead,
    CombinedMarginHead,
    CosFaceHead,
    ElasticFaceHead,
    MarginHead,
    NormalizedSoftmaxHead,
)

margin_heads = pytest.mark.parametrize("name", [name for name, head in HEADS.items() if issubclass(head, MarginHead)])


def batch(size: int = 12, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return 10 * torch.randn(size, 8, generator=generator), torch.arange(size) % classes


def test_margin_grows_linearly_and_stops() -> None:
    embeddings, labels = batch()
    head = ArcFaceHead(8, 5, margin=0.6, margin_warmup_epochs=3)
    fixed = {margin: ArcFaceHead(8, 5, margin=margin) for margin in (0.0, 0.1, 0.3, 0.6)}
    for other in fixed.values():
        other.load_state_dict(head.state_dict())
    torch.testing.assert_close(head.loss(embeddings, labels), fixed[0.6].loss(embeddings, labels))
    for epoch, margin in ((0.0, 0.0), (0.5, 0.1), (1.5, 0.3), (3.0, 0.6), (40.0, 0.6)):
        head.set_progress(epoch=epoch, step=0, seed=0)
        torch.testing.assert_close(head.loss(embeddings, labels), fixed[margin].loss(embeddings, labels))


@margin_heads
def test_every_margin_begins_at_none(name: str) -> None:
    embeddings, labels = batch()
    head = HEADS[name](8, 5, margin_warmup_epochs=1, **({"norm_weight": 0.0} if name == "MagFaceHead" else {})).eval()
    head.set_progress(epoch=0.0, step=0, seed=0)
    plain = NormalizedSoftmaxHead(8, 5, scale=64.0 if name != "ArcFaceHead" else 30.0)
    plain.weight.data = head.weight.data
    if name == "CurricularFaceHead":
        head.t.fill_(1.0)
        cosine, psi = reference.curricularface(reference.cosines(embeddings, head.weight), labels, 0.0, 1.0)
        expected = reference.softmax_loss(cosine, labels, psi, 64.0).mean().float()
    else:
        expected = plain.loss(embeddings, labels)
    torch.testing.assert_close(head.loss(embeddings, labels), expected)


def test_progress_alone_decides() -> None:
    embeddings, labels = batch()
    for head in (ArcFaceHead(8, 5, margin_warmup_epochs=4), ElasticFaceHead(8, 5, margin_warmup_epochs=4)):
        fresh = copy.deepcopy(head)
        for step in range(7):
            head.set_progress(epoch=step / 4, step=step, seed=9)
            head.loss(embeddings, labels)
        fresh.set_progress(epoch=6 / 4, step=6, seed=9)
        assert torch.equal(fresh.loss(embeddings, labels), head.loss(embeddings, labels))


def test_rarer_classes_have_larger_margins() -> None:
    embeddings, labels = batch()
    counts = torch.tensor([16, 81, 1, 256, 10_000])
    head = CosFaceHead(8, 5, margin=0.4, class_margins="frequency")
    head.set_class_counts(counts)
    margins = 0.4 * torch.tensor([1 / 2, 1 / 3, 1.0, 1 / 4, 1 / 10], dtype=torch.float64)
    cosine = reference.cosines(embeddings, head.weight)
    target = reference.target_theta(cosine, labels).cos() - margins[labels]
    expected = reference.softmax_loss(cosine, labels, target, 64.0)
    torch.testing.assert_close(head.loss(embeddings, labels, reduction="none").double(), expected, rtol=1e-6, atol=1e-5)


@margin_heads
def test_class_margins_travel_with_the_state(name: str) -> None:
    embeddings, labels = batch()
    head = HEADS[name](8, 5, class_margins="frequency").eval()
    equal = HEADS[name](8, 5).eval()
    equal.weight.data = head.weight.data
    if name == "CurricularFaceHead":
        head.t.fill_(0.5)
        equal.t.fill_(0.5)
    torch.testing.assert_close(head.loss(embeddings, labels), equal.loss(embeddings, labels))
    head.set_class_counts(torch.tensor([1, 10, 100, 1000, 0]))
    assert head.loss(embeddings, labels) < equal.loss(embeddings, labels)
    again = HEADS[name](8, 5, class_margins="frequency").eval()
    again.load_state_dict(head.state_dict())
    assert torch.equal(again.loss(embeddings, labels), head.loss(embeddings, labels))
    assert "class_factors" not in equal.state_dict()
    equal.set_class_counts(torch.tensor([1, 10]))


def test_wrong_counts_are_refused() -> None:
    head = ArcFaceHead(8, 5, class_margins="frequency")
    for counts, message in (
        (torch.ones(4), r"counts.shape: got \(4,\); expected \(5,\)"),
        (torch.tensor([1, 2, -1, 4, 5]), "counts: got -1; expected numbers of images of at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            head.set_class_counts(counts)


def test_a_class_without_images_leaves_the_margins_of_the_others_alone() -> None:
    head, less = (ArcFaceHead(8, size, class_margins="frequency") for size in (5, 3))
    head.set_class_counts(torch.tensor([0, 100, 1600, 0, 200]))
    less.set_class_counts(torch.tensor([100, 1600, 200]))
    assert torch.equal(head.class_factors[[1, 2, 4]], less.class_factors)
    assert head.class_factors[[0, 3]].tolist() == [1, 1]
    head.set_class_counts(torch.zeros(5))
    assert head.class_factors.tolist() == [1] * 5


def test_combined_margins_shrink_towards_none() -> None:
    embeddings, labels = batch()
    head = CombinedMarginHead(8, 5, m1=2.0, m2=0.4, m3=0.2, margin_warmup_epochs=2)
    half = CombinedMarginHead(8, 5, m1=1.5, m2=0.2, m3=0.1)
    half.load_state_dict(head.state_dict())
    head.set_progress(epoch=1.0, step=0, seed=0)
    torch.testing.assert_close(head.loss(embeddings, labels), half.loss(embeddings, labels))
