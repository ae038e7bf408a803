"""The softmax of a linear layer against torch's cross-entropy."""

import pytest
import torch
import torch.nn.functional as F
from cases import batch

from arcface_pl.functional import (
    linear_softmax_loss,
)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk_size", [None, 3, 1000])
def test_linear_softmax_loss_is_the_cross_entropy(with_bias: bool, smoothing: float, chunk_size: int | None) -> None:
    embeddings, weight, labels = batch()
    bias = torch.linspace(-3, 3, 10, dtype=torch.float64).requires_grad_() if with_bias else None
    inputs = (embeddings, weight) if bias is None else (embeddings, weight, bias)
    expected = F.cross_entropy(F.linear(embeddings, weight, bias), labels, label_smoothing=smoothing)
    got = linear_softmax_loss(embeddings, weight, labels, bias, label_smoothing=smoothing, chunk_size=chunk_size)
    torch.testing.assert_close(got, expected)
    for mine, other in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_linear_softmax_loss_keeps_its_running_maximum(chunk_size: int | None) -> None:
    embeddings = torch.tensor([[1e4, 0.0]], requires_grad=True)
    weight = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], requires_grad=True)
    for label, expected in ((2, 0.0), (0, 3e4), (1, 1e4)):
        got = linear_softmax_loss(embeddings, weight, torch.tensor([label]), chunk_size=chunk_size)
        assert got.item() == expected
        assert all(torch.isfinite(value).all() for value in torch.autograd.grad(got, (embeddings, weight)))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk_size", [None, 3, 1000])
@pytest.mark.parametrize("size", [1e-30, 1e18, 1e25, 2e35, 3e38])
def test_linear_softmax_loss_is_a_number_for_any_embedding(
    size: float, with_bias: bool, smoothing: float, chunk_size: int | None
) -> None:
    embeddings, weight, labels = batch(dtype=torch.float32)
    large = (embeddings.detach() / embeddings.detach().abs().max() * size).requires_grad_()
    bias = torch.linspace(-3, 3, len(weight)).requires_grad_() if with_bias else None
    inputs = (large, weight) if bias is None else (large, weight, bias)
    logits = F.linear(large.double(), weight.double(), None if bias is None else bias.double())
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    arguments = {"label_smoothing": smoothing, "chunk_size": chunk_size}
    got = linear_softmax_loss(large, weight, labels, bias, reduction="none", **arguments)
    # What is larger than the largest float32 is infinite there; nothing else is.
    torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-6 * min(size, 1e30))
    loss = linear_softmax_loss(large, weight, labels, bias, **arguments)
    wanted = torch.autograd.grad(expected.mean(), inputs)
    for mine, other in zip(torch.autograd.grad(loss, inputs), wanted, strict=True):
        assert torch.isfinite(mine).all()
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6 * float(other.abs().max()))
