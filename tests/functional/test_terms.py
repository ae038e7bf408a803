"""The loss against formulas in arbitrary precision, and at the ends of every range."""

import itertools
import math

import pytest
import torch
from cases import ANGLES, CHUNKED, WHOLE, arc, at_angle, batch
from exact import arcface, exact_vector, gradients, loss, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_pl.functional import (
    margin_softmax_loss,
    non_target_logsumexp,
)


@pytest.mark.parametrize("chunk_size", [WHOLE, CHUNKED])
@pytest.mark.parametrize("scale", [1.0, 30.0, 64.0])
def test_loss_and_gradients_are_exact_at_every_angle(scale: float, chunk_size: int | None) -> None:
    tolerance = max(2e-6, 2e-7 * scale)
    for theta, margin in itertools.product(ANGLES, (0.0, 0.2, 0.5, 1.0)):
        embedding, weight = at_angle(theta)
        got = margin_softmax_loss(embedding, weight, torch.tensor([0]), arc(margin), scale=scale, chunk_size=chunk_size)
        of_embedding, of_weight = torch.autograd.grad(got, (embedding, weight))
        x, rows = exact_vector(embedding[0]), [exact_vector(row) for row in weight]
        arguments = (x, rows, 0, scale, lambda angle, margin=margin: arcface(angle, margin))
        assert relative_error(got.detach()[None], [loss(*arguments)]) <= tolerance, (theta, margin)
        truth_embedding, truth_weight = gradients(*arguments)
        assert relative_error(of_embedding, truth_embedding) <= tolerance, (theta, margin)
        assert relative_error(of_weight, truth_weight) <= tolerance, (theta, margin)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
@pytest.mark.parametrize("chunk_size", [WHOLE, CHUNKED])
def test_half_precision_embeddings_lose_nothing_but_their_own_rounding(
    dtype: torch.dtype, rounding: float, chunk_size: int | None
) -> None:
    for theta in ANGLES:
        embedding, weight = at_angle(theta, dtype=dtype)
        got = margin_softmax_loss(embedding, weight, torch.tensor([0]), arc(0.5), scale=30.0, chunk_size=chunk_size)
        of_embedding, of_weight = torch.autograd.grad(got, (embedding, weight))
        x, rows = exact_vector(embedding[0]), [exact_vector(row) for row in weight]
        arguments = (x, rows, 0, 30.0, lambda angle: arcface(angle, 0.5))
        truth_embedding, truth_weight = gradients(*arguments)
        assert got.dtype == torch.float32
        assert relative_error(got.detach()[None], [loss(*arguments)]) <= 6e-6
        assert of_embedding.dtype == dtype
        if max(map(abs, truth_embedding)) > torch.finfo(dtype).tiny:  # float16 ends at 6e-5
            assert relative_error(of_embedding, truth_embedding) <= rounding
        assert relative_error(of_weight, truth_weight) <= 6e-6


@settings(deadline=None, max_examples=100, derandomize=True)
@given(theta=st.floats(1e-4, math.pi - 1e-4), margin=st.floats(0, 3.1), scale=st.floats(0.1, 300))
def test_two_classes_in_the_plane_have_a_closed_form(theta: float, margin: float, scale: float) -> None:
    embedding = torch.tensor([[math.cos(theta), math.sin(theta)]], dtype=torch.float64, requires_grad=True)
    weight = torch.eye(2, dtype=torch.float64)
    psi = math.cos(theta + margin) if theta + margin <= math.pi else -2 - math.cos(theta + margin)
    gap = scale * (math.sin(theta) - psi)
    expected = gap + math.log1p(math.exp(-gap)) if gap > 0 else math.log1p(math.exp(gap))
    for chunk_size in (WHOLE, 1):
        got = margin_softmax_loss(embedding, weight, torch.tensor([0]), arc(margin), scale=scale, chunk_size=chunk_size)
        assert math.isclose(got.item(), expected, rel_tol=1e-9, abs_tol=1e-300)
        (gradient,) = torch.autograd.grad(got, embedding)
        share = 1 / (1 + math.exp(-gap)) if gap > -700 else 0.0
        along = share * scale * (math.cos(theta) + abs(math.sin(theta + margin)))  # d loss / d theta
        tangent = torch.tensor([[-math.sin(theta), math.cos(theta)]], dtype=torch.float64)
        torch.testing.assert_close(gradient, along * tangent, rtol=1e-7, atol=1e-10 * scale * share)


@pytest.mark.parametrize("chunk_size", [WHOLE, CHUNKED])
@pytest.mark.parametrize(
    "embedding",
    [
        [1.0, 0.0, 0.0],
        [-1.0, 0.0, 0.0],
        [1.0, 2**-24, 0.0],
        [-1.0, 1e-30, 0.0],
        [0.6, 0.8, 0.0],
        [1e-30, 1e-30, -1e-30],
        [3e38, -3e38, 3e38],
        [0.0, 0.0, 0.0],
        [1e-13, 0.0, 1e-13],
    ],
)
@pytest.mark.parametrize("scale", [1.0, 64.0, 1000.0])
def test_extremes_are_finite(embedding: list[float], scale: float, chunk_size: int | None) -> None:
    x = torch.tensor([embedding], requires_grad=True)
    weight = torch.tensor([[0.6, 0.8, 0.0], [2.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    for label in range(4):
        got = margin_softmax_loss(x, weight, torch.tensor([label]), arc(0.5), scale=scale, chunk_size=chunk_size)
        of_x, of_weight = torch.autograd.grad(got, (x, weight))
        assert all(torch.isfinite(value).all() for value in (got, of_x, of_weight))
        if x.detach().double().norm() < 1e-12:
            assert torch.equal(of_x, torch.zeros_like(of_x))
        assert torch.equal(of_weight[3], torch.zeros(3))


@pytest.mark.parametrize("chunk_size", [WHOLE, CHUNKED])
def test_length_does_not_matter(chunk_size: int | None) -> None:
    embeddings, weight, labels = batch(dtype=torch.float32)
    arguments = {"scale": 30.0, "chunk_size": chunk_size, "reduction": "none"}
    expected = margin_softmax_loss(embeddings, weight, labels, arc(0.5), **arguments)
    for size in (1e-30, 1e30):
        torch.testing.assert_close(
            margin_softmax_loss(embeddings * size, weight, labels, arc(0.5), **arguments), expected
        )


@pytest.mark.parametrize("chunk_size", [WHOLE, CHUNKED])
def test_one_class_has_no_loss_and_no_gradient(chunk_size: int | None) -> None:
    embeddings, weight, _ = batch(classes=1)
    labels = torch.zeros(8, dtype=torch.uint8)
    got = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, chunk_size=chunk_size)
    assert got.item() == 0
    assert all(torch.equal(value, torch.zeros_like(value)) for value in torch.autograd.grad(got, (embeddings, weight)))
    assert torch.equal(
        non_target_logsumexp(embeddings, weight, labels, scale=1.0), torch.full((8,), -math.inf).double()
    )
