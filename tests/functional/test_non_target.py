"""The log-sum-exp of the non-target classes: exact in chunks, with the memory of a chunk."""

import contextlib
import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from cases import arc, batch
from tiny_runs import Largest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from arcface_pl.functional import (
    linear_softmax_loss,
    margin_softmax_loss,
    non_target_logsumexp,
)
from arcface_pl.functional.problem import CPU_CHUNK_ROWS, Reweighting


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 1000])
@pytest.mark.parametrize("scale", [0.5, 64.0, 90.0, 5000.0])
def test_non_target_logsumexp_leaves_out_the_target(scale: float, chunk_size: int | None) -> None:
    embeddings, weight, labels = batch()
    cosine = F.normalize(embeddings) @ F.normalize(weight).T
    expected = torch.stack(
        [
            torch.logsumexp(scale * torch.cat([row[:label], row[label + 1 :]]), 0)
            for row, label in zip(cosine, labels, strict=True)
        ]
    )
    got = non_target_logsumexp(embeddings, weight, labels, scale=scale, chunk_size=chunk_size)
    torch.testing.assert_close(got, expected)
    mine = torch.autograd.grad(got.sum(), (embeddings, weight))
    for a, b in zip(mine, torch.autograd.grad(expected.sum(), (embeddings, weight)), strict=True):
        torch.testing.assert_close(a, b)


def test_non_target_logsumexp_is_exact_where_the_target_would_dominate_it() -> None:
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    for chunk_size in (None, 1):
        got = non_target_logsumexp(weight[:1], weight, torch.tensor([0]), scale=64.0, chunk_size=chunk_size)
        torch.testing.assert_close(got, torch.tensor([math.log(2) - 64]))


@pytest.mark.parametrize("scale", [0.5, 80.0])
def test_a_hundred_chunks_add_up_without_loss(scale: float) -> None:
    embeddings, weight, labels = batch(4, 100_000, 8, dtype=torch.float32)
    cosine = F.normalize(embeddings.double()) @ F.normalize(weight.double()).T
    expected = (scale * cosine).scatter(1, labels[:, None], -math.inf).logsumexp(dim=1)
    got = non_target_logsumexp(embeddings, weight, labels, scale=scale)
    assert ((got - expected) / expected).abs().max() < 1e-7


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_no_tensor_of_batch_times_classes_is_made(smoothing: float) -> None:
    embeddings, weight, labels = batch(128, 20_000, 8, dtype=torch.float32)
    for call in (
        lambda: margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, label_smoothing=smoothing),
        lambda: linear_softmax_loss(embeddings, weight, labels, label_smoothing=smoothing),
    ):
        with Largest() as largest:
            call().backward()
        # A chunk of classes and a little more; all of them would be many times as many.
        assert largest.numel <= max(weight.numel(), 128 * (CPU_CHUNK_ROWS + 100)) < 128 * 20_000 / 6


# Three products ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def products() -> Iterator[list[str]]:
    """Count the matrix products of a block."""
    made = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ in ("mm", "addmm_"):
                made.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Counting():
        yield made


def three_product_cases() -> list[tuple[str, Callable[..., Tensor]]]:
    return [
        ("margin", lambda x, w, y: margin_softmax_loss(x, w, y, arc(0.5), scale=30.0, chunk_size=7)),
        ("shifted", lambda x, w, y: margin_softmax_loss(x, w, y, arc(0.5), scale=90.0, chunk_size=7)),
        (
            "smoothed",
            lambda x, w, y: margin_softmax_loss(x, w, y, arc(0.5), scale=30.0, chunk_size=7, label_smoothing=0.1),
        ),
        ("linear", lambda x, w, y: linear_softmax_loss(x, w, y, chunk_size=7)),
        ("linear, smoothed", lambda x, w, y: linear_softmax_loss(x, w, y, chunk_size=7, label_smoothing=0.1)),
    ]


@pytest.mark.parametrize(("name", "loss"), three_product_cases(), ids=[name for name, _ in three_product_cases()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_the_batch_is_no_larger_than_dim_three_products_do_what_four_did(
    name: str, loss: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    chunks = 5  # of 33 classes, the last of them short
    for size, expected in ((16, 3), (17, 4)):
        embeddings, weight, labels = batch(size, 33, 16, dtype=dtype)
        with products() as made:
            value = loss(embeddings, weight, labels)
            got = torch.autograd.grad(value, (embeddings, weight), retain_graph=True)
        assert len(made) == expected * chunks
        # The logits are used up: a second backward pass computes them again, and the first one's result stays
        kept = got[1].clone()
        again = torch.autograd.grad(value, (embeddings, weight))
        assert torch.equal(got[1], kept)
        for mine, other in zip(got, again, strict=True):
            # exp and products of the same numbers; torch may vectorize them otherwise by the place in memory
            torch.testing.assert_close(mine, other, rtol=0, atol=4 * torch.finfo(dtype).eps * float(other.abs().max()))


def test_logits_are_kept_only_where_a_gradient_of_the_centers_is_wanted() -> None:
    embeddings, weight, labels = batch(16, 33, 16)
    for x, w, context in (
        (embeddings, weight.detach(), torch.enable_grad()),
        (embeddings, weight, torch.no_grad()),
        (embeddings.bfloat16(), weight.bfloat16(), torch.enable_grad()),  # the gradient of these is too narrow
    ):
        with context, _Kept() as kept:
            margin_softmax_loss(x, w, labels, arc(0.5), scale=30.0, chunk_size=7)
        assert not kept.shapes.count((33, 16))


class _Kept(TorchDispatchMode):
    """Remembers the shapes of uninitialized tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ == "empty_like":
            self.shapes.append(tuple(out.shape))
        return out


# Re-weighting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reweighted_logits_near_alignment_do_not_overflow(dtype: torch.dtype, chunk_size: int | None) -> None:
    """At s = 64 a hard class with cosine 1 and t = 1 has the logit 128, and exp(128) is not a float32 number."""
    weight = torch.eye(4, dtype=dtype).requires_grad_()
    embeddings = torch.tensor([[1.0, 0.0, 0.0, 1e-3]], dtype=dtype).requires_grad_()
    reweighting = Reweighting(torch.tensor([0.2]).to(dtype), torch.tensor(1.0).to(dtype))
    got = margin_softmax_loss(
        embeddings,
        weight,
        torch.tensor([1]),
        lambda cosine, sine: cosine - 0.2,
        scale=64.0,
        reweighting=reweighting,
        chunk_size=chunk_size,
    )
    cosine = 1 / math.sqrt(1 + 1e-6)
    expected = 64 * (cosine * (1 + cosine) + 0.2)
    assert got.item() == pytest.approx(expected, rel=1e-6)
    assert all(torch.isfinite(value).all() for value in torch.autograd.grad(got, (embeddings, weight)))
