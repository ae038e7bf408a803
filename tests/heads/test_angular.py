"""The scale of the logits: fixed, AdaCos's and learnable."""

import copy
import inspect
import math

import pytest
import reference
import torch
from torch import Tensor

from arcface_pl.heads import HEADS, AngularHead, CurricularFaceHead, Head, NormalizedSoftmaxHead, shard_head

ANGULAR = [name for name, head in HEADS.items() if issubclass(head, AngularHead)]
PATHS = pytest.mark.parametrize("path", ["whole", "chunked", "sharded"])


def batch(seed: int, size: int = 7, near: Head | None = None) -> tuple[Tensor, Tensor]:
    """Embeddings in float64, close to their classes' centers if a head is given."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 6
    embeddings = torch.randn(size, 8, generator=generator, dtype=torch.float64)
    if near is not None:
        embeddings = 0.05 * embeddings + near.weight.detach()[labels]
    return embeddings, labels


def on(path: str, head: AngularHead, monkeypatch: pytest.MonkeyPatch) -> AngularHead:
    if path == "chunked":
        monkeypatch.setattr("arcface_pl.functional.chunked_terms.WHOLE_CELLS", 0)
    return shard_head(head) if path == "sharded" else head


@PATHS
@pytest.mark.parametrize("call", ["loss", "forward"])
def test_the_dynamic_scale_is_adacos_and_counts_at_once(monkeypatch: pytest.MonkeyPatch, path: str, call: str) -> None:
    torch.manual_seed(0)
    head = on(path, NormalizedSoftmaxHead(8, 6, scale="adacos_dynamic").double(), monkeypatch)
    scale = math.sqrt(2) * math.log(5)
    assert head.scale_value.item() == pytest.approx(scale, rel=1e-6)
    for seed, near in enumerate((None, head, None)):
        embeddings, labels = batch(seed, near=near)
        cosine = reference.cosines(embeddings, head.weight)
        expected = reference.adacos(cosine, labels, head.scale_value.item())
        assert abs(expected - scale) > 1e-3
        scale = expected
        if call == "loss":
            losses = head.loss(embeddings, labels, reduction="none")
            target = cosine.gather(1, labels[:, None])[:, 0]
            torch.testing.assert_close(losses, reference.softmax_loss(cosine, labels, target, scale))
        else:
            torch.testing.assert_close(head(embeddings, labels), scale * cosine)
        assert head.scale_value.item() == pytest.approx(scale, rel=1e-9)
    head.eval()
    head.loss(*batch(9))
    head.score(*batch(9))
    assert head.scale_value.item() == pytest.approx(scale, rel=1e-9)
    torch.testing.assert_close(head(embeddings), scale * cosine)


def test_the_dynamic_scale_travels_with_the_state_and_stays_float32() -> None:
    head, other = (NormalizedSoftmaxHead(8, 6, scale="adacos_dynamic") for _ in range(2))
    head.loss(*batch(1))
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.scale_value, head.scale_value)
    assert head.to(torch.bfloat16).scale_value.dtype == torch.float32


def test_the_dynamic_scale_recovers_from_cosines_that_ask_for_none() -> None:
    head = NormalizedSoftmaxHead(2, 3, scale="adacos_dynamic")
    head.weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    away = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    for _ in range(8):
        assert head.loss(*away).isfinite()
    assert head.scale_value > 0


def test_two_losses_of_one_backward_pass_may_have_different_scales() -> None:
    head = NormalizedSoftmaxHead(8, 6, scale="adacos_dynamic").double()
    first, second = (head.loss(*batch(seed)) for seed in (1, 2))
    (first + second).backward()
    assert head.weight.grad.isfinite().all()


@PATHS
@pytest.mark.parametrize("name", [name for name in ANGULAR if name != "CurricularFaceHead"])
@pytest.mark.parametrize("options", [{}, {"sub_centers": 2, "label_smoothing": 0.1}], ids=str)
def test_a_learnable_scale_gets_the_gradient_of_the_whole_logits(
    monkeypatch: pytest.MonkeyPatch, name: str, options: dict, path: str
) -> None:
    torch.manual_seed(0)
    head = HEADS[name](8, 6, scale="learnable", **options).double().eval()
    assert head.scale_value.item() == pytest.approx(math.sqrt(2) * math.log(5), rel=1e-6)
    embeddings, labels = batch(0)
    logits, penalty = head(embeddings, labels), head.penalty(embeddings)
    dense = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=head.label_smoothing)
    dense = dense if penalty is None else dense + penalty.mean()
    expected = torch.autograd.grad(dense, (head.log_scale, head.weight))
    other = on(path, copy.deepcopy(head), monkeypatch)
    got = torch.autograd.grad(other.loss(embeddings, labels), (other.log_scale, other.weight))
    torch.testing.assert_close(got, expected)
    frozen = copy.deepcopy(other).requires_grad_(False)
    frozen.log_scale.requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(frozen.loss(embeddings, labels), frozen.log_scale), expected[:1])


def test_a_learnable_scale_trains_towards_the_better_one() -> None:
    """Well separated embeddings are worth a larger scale."""
    head = NormalizedSoftmaxHead(6, 6, scale="learnable")
    head.weight.data = torch.eye(6)
    optimizer = torch.optim.SGD([head.log_scale], lr=0.1)
    first = head.scale_value.item()
    for _ in range(20):
        optimizer.zero_grad()
        head.loss(torch.eye(6), torch.arange(6)).backward()
        optimizer.step()
    assert head.scale_value.item() > 1.2 * first


@pytest.mark.parametrize("scale", ["adacos", "adacos_dynamic", "learnable"])
def test_scores_know_the_present_scale(scale: str) -> None:
    head = NormalizedSoftmaxHead(8, 40_000, scale=scale)
    head.loss(*batch(0))
    embeddings, labels = batch(1)
    assert head.eval().scores_in_chunks(embeddings)
    torch.testing.assert_close(
        head.score(embeddings, labels).loss, head.loss(embeddings, labels, reduction="none").detach()
    )


def test_words_for_a_scale_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="^scale: got 'learnable'; expected a number"):
        CurricularFaceHead(8, 6, scale="learnable")
    for scale in ("adacos_dynamic", "learnable"):
        with pytest.raises(ValueError, match=f"^scale: got '{scale}'; expected a number where there are 2 classes"):
            NormalizedSoftmaxHead(8, 2, scale=scale)
    with pytest.raises(
        ValueError, match="^scale: got 'fixed'; expected one of 'adacos', 'adacos_dynamic', 'learnable'"
    ):
        NormalizedSoftmaxHead(8, 6, scale="fixed")


def test_a_number_adds_nothing_to_the_state() -> None:
    for name in ANGULAR:
        state = HEADS[name](8, 6).state_dict()
        assert not {"log_scale", "dynamic_scale", "loss_weights"} & state.keys()
        assert "class_weights" in inspect.signature(HEADS[name]).parameters
