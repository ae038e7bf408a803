"""Rounded operands of the non-target products, and logits that are divided where a CPU divides the centers."""

import math
from collections.abc import Callable

import pytest
import torch
from cases import arc, batch
from torch import Tensor

from arcface_pl.functional import linear_softmax_loss, margin_softmax_loss, non_target
from arcface_pl.functional.chunked_terms import _with_masked_targets, _with_targets
from arcface_pl.functional.problem import NonTarget
from arcface_pl.functional.products import PRECISIONS, Products, tensor_cores

UNIT = 2.0**-8
"""The largest relative error of rounding to bfloat16, which keeps 8 bits."""


def margin(
    embeddings: Tensor, weight: Tensor, labels: Tensor, scale: float = 64.0, margin: float = 0.5, **kwargs: object
) -> Tensor:
    return margin_softmax_loss(embeddings, weight, labels, arc(margin), scale=scale, **kwargs)


def gradients(loss: Callable[..., Tensor], *inputs: Tensor, **kwargs: object) -> tuple[Tensor, Tensor, Tensor]:
    value = loss(*inputs, **kwargs)
    return value.detach(), *torch.autograd.grad(value, inputs[:2])


def distance(mine: Tensor, exact: Tensor) -> float:
    return float((mine.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("size", [24, 100])  # logits kept between the passes, and made twice
@pytest.mark.parametrize("scale", [20.0, 64.0, 90.0])
def test_bfloat16_operands_cost_no_more_than_their_rounding(size: int, scale: float) -> None:
    """Against float64.

    Each of the two operands of a logit is rounded by at most ``UNIT``, so that by Cauchy and Schwarz a cosine is off by
    at most 2 UNIT + UNIT^2, and by about UNIT / sqrt(D) where the roundings are independent (a uniform error of a
    mantissa between 1 and 2 has a deviation of 0.42 UNIT, two of them 0.59). A gradient is a sum of products of a
    probability, which is off by what the logit is off and rounded itself, and a vector that is rounded: 0.59 UNIT for
    its two roundings.
    """
    inputs = batch(size, 6000, 64, dtype=torch.float32)
    exact = gradients(margin, *(value.double() if value.is_floating_point() else value for value in inputs), scale)
    rounded = gradients(margin, *inputs, scale, precision="bfloat16")
    assert abs(float(rounded[0]) - float(exact[0])) <= scale * (2 * UNIT + UNIT**2)
    typical = math.hypot(0.59 * UNIT, 0.59 * UNIT * scale / math.sqrt(64))
    for mine, other in zip(rounded[1:], exact[1:], strict=True):
        assert 1e-4 < distance(mine, other) <= typical


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_target_stays_exact(precision: str) -> None:
    """With one class there is no other; the angle to it is not rounded."""
    embeddings, weight, labels = batch(4, 3, 16, dtype=torch.float32)
    alone = labels * 0
    for loss in (margin, linear_softmax_loss):
        plain = gradients(loss, embeddings, weight[:1], alone, chunk_size=1)
        assert all(
            torch.equal(a, b)
            for a, b in zip(
                gradients(loss, embeddings, weight[:1], alone, chunk_size=1, precision=precision), plain, strict=True
            )
        )


@pytest.mark.parametrize("loss", [margin, linear_softmax_loss])
def test_float64_and_small_problems_are_never_rounded(loss: Callable[..., Tensor]) -> None:
    for inputs in (batch(8, 500, 16), batch(8, 500, 16, dtype=torch.float32)):
        for one, other in zip(gradients(loss, *inputs, precision="bfloat16"), gradients(loss, *inputs), strict=True):
            assert torch.equal(one, other)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device rounds to TF32")
def test_tf32_is_float32_where_there_is_no_cuda_device() -> None:
    inputs = batch(64, 3000, 16, dtype=torch.float32)
    for one, other in zip(gradients(margin, *inputs, precision="tf32"), gradients(margin, *inputs), strict=True):
        assert torch.equal(one, other)


def test_tensor_cores_leaves_the_setting_of_torch_as_it_was() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision

    def fail() -> None:
        with tensor_cores("tf32"):
            assert matmul.fp32_precision == "tf32"
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert matmul.fp32_precision == before
    with tensor_cores("float32"):
        assert matmul.fp32_precision == before


@pytest.mark.parametrize("call", [margin, linear_softmax_loss])
def test_an_unknown_precision_is_refused(call: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="^precision: got 'fp16'; expected one of 'float32', 'tf32', 'bfloat16'"):
        call(*batch(), precision="fp16")


def test_rounding_is_to_the_nearest_bfloat16() -> None:
    matrix = torch.randn(5, 7)
    products = Products("bfloat16", matrix)
    assert torch.equal(products.operand(matrix), matrix.bfloat16().float())
    assert Products("float32", matrix).operand(matrix) is matrix


# What an accelerator does -----------------------------------------------------------------------------------------


@pytest.fixture
def scaled_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(non_target, "DIVIDING_DEVICES", ())


@pytest.mark.usefixtures("scaled_logits")
@pytest.mark.parametrize("size", [10, 20])  # within the width of the embeddings, and beyond
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"scale": 90.0}, {"label_smoothing": 0.1}, {"sub_centers": 3}],
    ids=["plain", "shifted", "smoothed", "sub-centers"],
)
def test_dividing_the_logits_is_dividing_the_centers(
    size: int, kwargs: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    sub_centers = int(kwargs.get("sub_centers", 1))
    embeddings, weight, labels = batch(size, 33, 16, sub_centers)
    weight = (weight.detach() * torch.logspace(-6, 3, len(weight))[:, None]).requires_grad_()
    mine = gradients(margin, embeddings, weight, labels, chunk_size=7, **kwargs)
    monkeypatch.setattr(non_target, "DIVIDING_DEVICES", ("cpu",))
    for one, other in zip(mine, gradients(margin, embeddings, weight, labels, chunk_size=7, **kwargs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


@pytest.mark.usefixtures("scaled_logits")
def test_a_center_without_length_has_no_gradient_and_spoils_none() -> None:
    embeddings, weight, labels = batch(6, 9, 16, dtype=torch.float32)
    weight.data[[2, 5]] = torch.stack([torch.zeros(16), torch.full((16,), 1e-20)])
    value, *grads = gradients(margin, embeddings, weight, labels, chunk_size=4)
    assert all(torch.isfinite(each).all() for each in (value, *grads))
    assert not grads[1][[2, 5]].any()


def test_a_chunk_on_an_accelerator_is_64_mib_in_either_direction() -> None:
    chunk, device = NonTarget().chunk, torch.device("cuda")
    assert chunk(64, 512, device) == chunk(512, 64, device) == (1 << 24) // 512
    assert NonTarget(sub_centers=4).chunk(64, 512, device) == (1 << 24) // 512 // 4


def test_targets_are_added_to_their_chunks_without_looking_for_them() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, to_target = torch.randint(20, (30,), generator=generator), torch.randn(30, 4, generator=generator)
    for drawn in (None, 3 * torch.arange(20)):
        seen: list[list[tuple[object, Tensor]]] = [[], []]
        for calls, make in zip(seen, (_with_targets, _with_masked_targets), strict=True):
            whole = make(lambda chunk, grad, calls=calls: calls.append((chunk, grad)), drawn, rows, to_target)
            for start in range(0, 20, 7):
                chunk = slice(start, min(start + 7, 20))
                whole(chunk, torch.ones(chunk.stop - chunk.start, 4))
        for (one, mine), (other, theirs) in zip(*seen, strict=True):
            assert torch.equal(torch.as_tensor(one), torch.as_tensor(other)) if drawn is not None else one == other
            torch.testing.assert_close(mine, theirs)
