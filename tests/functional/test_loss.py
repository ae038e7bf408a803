"""The loss on both paths, whole and in chunks, against the dense formula in float64."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from cases import WHOLE, arc, batch
from torch import Tensor

from arcface_pl.functional import (
    margin_softmax_loss,
)
from arcface_pl.functional.problem import Reweighting

SETTINGS = [
    pytest.param(
        scale, sub_centers, smoothing, hard, id=f"s{scale:g}-K{sub_centers}-ls{smoothing}-{'hard' if hard else ''}"
    )
    for scale, sub_centers, smoothing, hard in itertools.product((8.0, 100.0), (1, 3), (0.0, 0.1), (False, True))
]


def dense_losses(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: float,
    sub_centers: int,
    smoothing: float,
    reweighting: Reweighting | None,
) -> Tensor:
    """All logits at once, by acos, and torch's own cross-entropy."""
    cosine = F.normalize(embeddings) @ F.normalize(weight).T
    cosine = cosine.view(len(labels), -1, sub_centers).amax(dim=2)
    theta = cosine.gather(1, labels[:, None]).acos() + 0.5
    psi = torch.where(theta <= math.pi, theta.cos(), -2 - theta.cos())
    if reweighting is not None:
        is_hard = cosine > reweighting.threshold[:, None]
        cosine = torch.where(is_hard, cosine * (reweighting.t + cosine), cosine)
    logits = scale * cosine.scatter(1, labels[:, None], psi)
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


@pytest.mark.parametrize(("scale", "sub_centers", "smoothing", "is_hard"), SETTINGS)
def test_both_paths_equal_the_dense_formula(scale: float, sub_centers: int, smoothing: float, is_hard: bool) -> None:
    embeddings, weight, labels = batch(sub_centers=sub_centers)
    reweighting = Reweighting(torch.full((8,), 0.1).double(), torch.tensor(0.3).double()) if is_hard else None
    expected = dense_losses(embeddings, weight, labels, scale, sub_centers, smoothing, reweighting)
    upstream = torch.linspace(0.5, 2, 8, dtype=torch.float64)
    expected_gradients = torch.autograd.grad(expected, (embeddings, weight), upstream)
    for chunk_size in (WHOLE, 1, 3, 10, 1000):
        got = margin_softmax_loss(
            embeddings,
            weight,
            labels,
            arc(0.5),
            scale=scale,
            sub_centers=sub_centers,
            label_smoothing=smoothing,
            reweighting=reweighting,
            reduction="none",
            chunk_size=chunk_size,
        )
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)
        for mine, other in zip(
            torch.autograd.grad(got, (embeddings, weight), upstream), expected_gradients, strict=True
        ):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("scale", "sub_centers", "smoothing", "is_hard"), SETTINGS)
@pytest.mark.parametrize("chunk_size", [WHOLE, 2])
def test_gradcheck(scale: float, sub_centers: int, smoothing: float, is_hard: bool, chunk_size: int | None) -> None:
    embeddings, weight, labels = batch(3, 4, 3, sub_centers)
    reweighting = Reweighting(torch.full((3,), 0.1).double(), torch.tensor(0.3).double()) if is_hard else None

    def losses(x: Tensor, w: Tensor) -> Tensor:
        return margin_softmax_loss(
            x,
            w,
            labels,
            arc(0.5),
            scale=scale,
            sub_centers=sub_centers,
            label_smoothing=smoothing,
            reweighting=reweighting,
            reduction="none",
            chunk_size=chunk_size,
        )

    assert torch.autograd.gradcheck(losses, (embeddings, weight))


@pytest.mark.parametrize("scale", [1.0, 30.0, 64.0, 200.0])
def test_many_classes_in_float32_are_as_exact_as_few(scale: float) -> None:
    embeddings, weight, labels = batch(32, 5000, 64, dtype=torch.float32)
    wide = [value.detach().double().requires_grad_() for value in (embeddings, weight)]
    expected = dense_losses(*wide, labels, scale, 1, 0.0, None)
    got = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=scale, reduction="none")
    tolerance = max(2e-6, 2e-7 * scale)
    assert ((got - expected) / expected).abs().max() <= tolerance
    upstream = torch.ones(32)
    gradients_got = torch.autograd.grad(got, (embeddings, weight), upstream)
    gradients_expected = torch.autograd.grad(expected, wide, upstream.double())
    (mine, my_weight), (other, other_weight) = gradients_got, gradients_expected
    assert ((mine - other).norm(dim=1) / other.norm(dim=1)).max() <= tolerance
    assert (my_weight - other_weight).norm() / other_weight.norm() <= tolerance


def test_only_what_needs_a_gradient_gets_one() -> None:
    embeddings, weight, labels = batch()
    for chunk_size in (WHOLE, 3):
        both = torch.autograd.grad(
            margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, chunk_size=chunk_size),
            (embeddings, weight),
        )
        for place, (x, w) in enumerate(((embeddings, weight.detach()), (embeddings.detach(), weight))):
            got = margin_softmax_loss(x, w, labels, arc(0.5), scale=30.0, chunk_size=chunk_size)
            torch.testing.assert_close(torch.autograd.grad(got, (embeddings, weight)[place])[0], both[place])
        assert not margin_softmax_loss(
            embeddings.detach(), weight.detach(), labels, arc(0.5), scale=30.0, chunk_size=chunk_size
        ).requires_grad


def test_reductions_agree() -> None:
    embeddings, weight, labels = batch()
    each = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, reduction="none")
    assert each.shape == (8,)
    for reduction in ("mean", "sum"):
        got = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, reduction=reduction)
        torch.testing.assert_close(got, getattr(each, reduction)())
    with pytest.raises(ValueError, match=r"^reduction: got 'avg'; expected one of 'mean', 'sum', 'none'"):
        margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, reduction="avg")


def test_autocast_changes_nothing() -> None:
    embeddings, weight, labels = batch(dtype=torch.float32)
    for chunk_size in (WHOLE, 3):
        plain = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, chunk_size=chunk_size)
        expected = torch.autograd.grad(plain, (embeddings, weight))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, chunk_size=chunk_size)
            gradients_got = torch.autograd.grad(got, (embeddings, weight))
        assert torch.equal(got, plain)
        assert all(torch.equal(mine, other) for mine, other in zip(gradients_got, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [WHOLE, 3])
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo hides it, which an error filter comes before
def test_compiled_loss_equals_the_eager_one(chunk_size: int | None) -> None:
    embeddings, weight, labels = batch(dtype=torch.float32)

    def call(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return margin_softmax_loss(x, w, y, arc(0.5), scale=30.0, chunk_size=chunk_size, check_labels=False)

    expected = call(embeddings, weight, labels)
    got = torch.compile(call)(embeddings, weight, labels)
    torch.testing.assert_close(got, expected)
    mine = torch.autograd.grad(got, (embeddings, weight))
    for a, b in zip(mine, torch.autograd.grad(expected, (embeddings, weight)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("chunk_size", [WHOLE, 2, 1000])
@pytest.mark.parametrize(("sub_centers", "smoothing"), [(1, 0.0), (3, 0.0), (1, 0.1), (3, 0.1)])
def test_a_scale_that_requires_a_gradient_gets_the_right_one(
    sub_centers: int, smoothing: float, chunk_size: int | None
) -> None:
    embeddings, weight, labels = batch(3, 4, 3, sub_centers)
    for start in (0.5, 8.0, 90.0):
        scale = torch.tensor(start, dtype=torch.float64, requires_grad=True)

        def losses(x: Tensor, w: Tensor, s: Tensor) -> Tensor:
            options = {"sub_centers": sub_centers, "label_smoothing": smoothing, "chunk_size": chunk_size}
            return margin_softmax_loss(x, w, labels, arc(0.5), scale=s, reduction="none", **options)

        expected = dense_losses(embeddings, weight, labels, scale, sub_centers, smoothing, None)
        torch.testing.assert_close(losses(embeddings, weight, scale), expected)
        upstream = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        for inputs in ((scale,), (embeddings, scale), (embeddings, weight, scale)):
            got = torch.autograd.grad(losses(embeddings, weight, scale), inputs, upstream)
            torch.testing.assert_close(got, torch.autograd.grad(expected, inputs, upstream, retain_graph=True))
    single = scale.detach().float().requires_grad_()
    assert torch.autograd.grad(losses(embeddings, weight, single).sum(), single)[0].dtype == torch.float32


@pytest.mark.parametrize("chunk_size", [WHOLE, 2])
def test_a_scale_that_requires_a_gradient_is_refused_with_a_reweighting(chunk_size: int | None) -> None:
    embeddings, weight, labels = batch()
    reweighting = Reweighting(torch.full((8,), 0.1).double(), torch.tensor(0.3).double())
    scale = torch.tensor(8.0, requires_grad=True)

    def loss(scale: Tensor) -> Tensor:
        options = {"reweighting": reweighting, "chunk_size": chunk_size}
        return margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=scale, **options)

    with pytest.raises(
        ValueError, match=r"^scale.requires_grad: got True; expected False together with a re-weighting"
    ):
        loss(scale)
    torch.testing.assert_close(loss(scale.detach()), loss(8.0))
    with pytest.raises(
        ValueError, match=r"^scale: got 'torch.float32 of shape \(2,\)'; expected a floating-point scalar"
    ):
        loss(torch.ones(2))
