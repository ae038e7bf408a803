"""What moves in the course of training: warm-up, margins by class frequency, running averages, random margins."""

import copy

import pytest
import reference
import torch
from torch import Tensor

from arcface_pl.heads import (
    HEADS,
    AdaFaceHead,
    ArcFaceHead,
    CombinedMarginHead,
    CosFaceHead,
    CurricularFaceHead,
    ElasticFaceHead,
    MarginHead,
    NormalizedSoftmaxHead,
)

margin_heads = pytest.mark.parametrize("name", [name for name, head in HEADS.items() if issubclass(head, MarginHead)])


def batch(size: int = 12, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return 10 * torch.randn(size, 8, generator=generator), torch.arange(size) % classes


# Warm-up --------------------------------------------------------------------------------------------------------------


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


# Class frequency ------------------------------------------------------------------------------------------------------


def test_rarer_classes_have_larger_margins() -> None:
    embeddings, labels = batch()
    counts = torch.tensor([16, 81, 1, 256, 10_000])
    head = CosFaceHead(8, 5, margin=0.4, class_margins="frequency")
    head.set_class_counts(counts)
    margins = 0.4 * torch.tensor([1 / 2, 1 / 3, 1.0, 1 / 4, 1 / 10], dtype=torch.float64)
    cosine = reference.cosines(embeddings, head.weight)
    own = reference.own_theta(cosine, labels).cos() - margins[labels]
    expected = reference.softmax_loss(cosine, labels, own, 64.0)
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


# AdaFace --------------------------------------------------------------------------------------------------------------


def test_adaface_follows_the_norms_in_training_only() -> None:
    embeddings, labels = batch()
    head = AdaFaceHead(8, 5, momentum=0.25)
    norms = embeddings.double().norm(dim=1)
    mean, std = torch.tensor(20.0).double(), torch.tensor(100.0).double()
    for call in (head.loss, head):
        call(embeddings, labels)
        mean, std = 0.75 * mean + 0.25 * norms.mean(), 0.75 * std + 0.25 * norms.std()
        torch.testing.assert_close(head.norm_mean.double(), mean, rtol=1e-6, atol=0)
        torch.testing.assert_close(head.norm_std.double(), std, rtol=1e-6, atol=0)
    head.eval()
    before = copy.deepcopy(head.state_dict())
    head.loss(embeddings, labels)
    head(embeddings)
    assert all(torch.equal(before[key], value) for key, value in head.state_dict().items())
    head.train()
    head(embeddings)
    assert all(torch.equal(before[key], value) for key, value in head.state_dict().items())


def test_adaface_uses_what_it_has_just_learnt() -> None:
    embeddings, labels = batch()
    head = AdaFaceHead(8, 5, momentum=1.0)
    got = head.loss(embeddings, labels, reduction="none").double()
    norms = embeddings.double().norm(dim=1)
    cosine = reference.cosines(embeddings, head.weight)
    theta = reference.own_theta(cosine, labels)
    own = reference.adaface(theta, norms, norms.mean().item(), norms.std().item(), 0.4, 0.333)
    torch.testing.assert_close(got, reference.softmax_loss(cosine, labels, own, 64.0), rtol=1e-5, atol=1e-5)


def test_adaface_takes_a_batch_of_one() -> None:
    head = AdaFaceHead(8, 5)
    head.loss(torch.full((1, 8), 3.0), torch.tensor([0]))
    assert head.norm_std == 100
    assert head.norm_mean.item() == pytest.approx(20 + 0.01 * (3 * 8**0.5 - 20))


# ElasticFace ----------------------------------------------------------------------------------------------------------


def drawn_margins(head: ElasticFaceHead, size: int) -> Tensor:
    """Read the margins back from the logits of embeddings that lie at right angles to their class."""
    head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    logits = head(torch.tensor([[0.0, 1.0]]).repeat(size, 1), torch.zeros(size, dtype=torch.int64))
    return -(logits[:, 0] / head.scale_value).detach()


def test_elastic_margins_are_normal_and_a_function_of_seed_step_and_batch() -> None:
    head = ElasticFaceHead(2, 2, variant="cos", margin=0.35, sigma=0.02)
    head.set_progress(epoch=0, step=5, seed=3)
    margins = drawn_margins(head, 20_000)
    assert margins.mean().item() == pytest.approx(0.35, abs=1e-3)
    assert margins.std().item() == pytest.approx(0.02, rel=0.03)
    assert torch.equal(drawn_margins(head, 20_000), margins)
    for step, seed, number in ((6, 3, 0), (5, 4, 0), (5, 3, 1)):
        head.set_progress(epoch=0, step=step, seed=seed, batch=number)
        other = drawn_margins(head, 20_000)
        assert abs(torch.corrcoef(torch.stack([margins, other]))[0, 1]) < 0.03
    torch.testing.assert_close(drawn_margins(head.eval(), 5), torch.full((5,), 0.35))


def test_elastic_draw_leaves_the_global_generator_alone() -> None:
    embeddings, labels = batch()
    head = ElasticFaceHead(8, 5)
    state = torch.get_rng_state()
    head.loss(embeddings, labels)
    assert torch.equal(torch.get_rng_state(), state)


# CurricularFace -------------------------------------------------------------------------------------------------------


def test_curricular_t_follows_the_own_cosine_and_is_used_at_once() -> None:
    embeddings, labels = batch()
    head = CurricularFaceHead(8, 5, momentum=0.5)
    head.t.fill_(0.8)
    cosine = reference.cosines(embeddings, head.weight)
    t = 0.4 + 0.5 * reference.own_theta(cosine, labels).cos().mean().item()
    got = head.loss(embeddings, labels, reduction="none").double()
    assert head.t.item() == pytest.approx(t, rel=1e-6)
    others, own = reference.curricularface(cosine, labels, 0.5, t)
    torch.testing.assert_close(got, reference.softmax_loss(others, labels, own, 64.0), rtol=1e-5, atol=1e-5)
    head.eval().loss(embeddings, labels)
    assert head.t.item() == pytest.approx(t, rel=1e-6)


# Precision of what moves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_buffers_stay_in_float32_where_the_weights_are_narrow(name: str, dtype: torch.dtype) -> None:
    head = HEADS[name](8, 5, **({"class_margins": "frequency"} if issubclass(HEADS[name], MarginHead) else {}))
    head.set_class_counts(torch.tensor([3, 10, 100, 1000, 7]))
    before = {key: value.clone() for key, value in head.named_buffers()}
    nested = torch.nn.Sequential(head).to(dtype)  # as Lightning's bf16-true does
    assert head.weight.dtype == dtype
    for key, value in nested[0].named_buffers():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])
    assert all(value.dtype == torch.float64 for value in head.double().buffers())


@pytest.mark.parametrize("kind", [AdaFaceHead, CurricularFaceHead])
def test_running_averages_of_narrow_heads_are_those_of_wide_ones(kind: type) -> None:
    """In bfloat16 a step of 1% of the way would round to none."""
    embeddings, labels = batch()
    narrow, wide = kind(8, 5).bfloat16(), kind(8, 5)
    wide.weight.data = narrow.weight.detach().float()
    for step in range(100):
        images = (embeddings * (1 + step / 20)).bfloat16()
        narrow.loss(images, labels)
        wide.loss(images.float(), labels)
    for key, value in wide.named_buffers():
        torch.testing.assert_close(dict(narrow.named_buffers())[key], value)


def test_a_default_dtype_of_bfloat16_changes_no_buffer_and_no_draw() -> None:
    """Lightning's bf16-true makes modules under it."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        heads = [AdaFaceHead(8, 5), CurricularFaceHead(8, 5), ArcFaceHead(8, 5, class_margins="frequency")]
        assert all(value.dtype == torch.float32 for head in heads for value in head.buffers())
        elastic = ElasticFaceHead(2, 2, variant="cos", margin=0.35)
        drawn = drawn_margins(elastic.float(), 5)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(drawn, drawn_margins(ElasticFaceHead(2, 2, variant="cos", margin=0.35), 5))
