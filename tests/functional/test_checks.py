"""Wrong batches and values are refused in one line."""

import math

import pytest
import torch
from cases import arc, batch
from torch import Tensor

from arcface_pl.functional import (
    linear_softmax_loss,
    margin_softmax_loss,
    non_target_logsumexp,
)
from arcface_pl.functional.checks import check_choice, check_count, check_number
from arcface_pl.functional.problem import Reweighting

GOOD = torch.zeros(8, dtype=torch.int64)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (GOOD - 1, r"labels: got -1; expected 8 integers in \[0, 9\], one per embedding"),
        (GOOD - 100, "labels: got -100; expected"),
        (GOOD + 10, "labels: got 10; expected"),
        (GOOD.float(), "labels.dtype: got torch.float32"),
        (GOOD.bool(), "labels.dtype: got torch.bool"),
        (GOOD.to(torch.complex64), "labels.dtype: got torch.complex64"),
        (GOOD[:7], r"labels.shape: got \(7,\); expected 8 integers"),
        (GOOD[:, None], r"labels.shape: got \(8, 1\)"),
        ([0] * 8, "labels: got 'list'; expected a tensor of 8 integers"),
        (GOOD.to("meta"), "labels.device: got 'meta'; expected that of the embeddings, cpu"),
    ],
)
def test_wrong_labels_are_refused_in_one_line(labels: Tensor, message: str) -> None:
    embeddings, weight, _ = batch()
    for call in (
        lambda: margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0),
        lambda: non_target_logsumexp(embeddings, weight, labels, scale=30.0),
        lambda: linear_softmax_loss(embeddings, weight, labels),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (torch.zeros(0, 16), r"embeddings.shape: got \(0, 16\); expected at least one sample"),
        (torch.zeros(8, 15), r"embeddings.shape: got \(8, 15\); expected \(batch, 16\)"),
        (torch.zeros(16), r"embeddings.shape: got \(16,\)"),
        (torch.zeros(8, 16, dtype=torch.int64), "embeddings.dtype: got torch.int64; expected floating point"),
        (
            torch.zeros(8, 16, device="meta"),
            "embeddings.device: got 'meta'; expected the device of the class centers, cpu",
        ),
    ],
)
def test_wrong_embeddings_are_refused_in_one_line(embeddings: Tensor, message: str) -> None:
    _, weight, _ = batch()
    with pytest.raises(ValueError, match=message):
        margin_softmax_loss(embeddings, weight, GOOD[: len(embeddings)], arc(0.5), scale=30.0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_integer_labels_of_every_kind_are_accepted(dtype: torch.dtype) -> None:
    embeddings, weight, labels = batch()
    expected = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0)
    assert torch.equal(margin_softmax_loss(embeddings, weight, labels.to(dtype), arc(0.5), scale=30.0), expected)


@pytest.mark.parametrize("value", [torch.tensor([30.0]), torch.tensor(30), 0, -1.0, math.nan, True, "8"])
def test_a_scale_that_is_no_positive_number_or_scalar_tensor_is_refused(value: object) -> None:
    embeddings, weight, labels = batch()
    for call in (
        lambda: margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=value),
        lambda: non_target_logsumexp(embeddings, weight, labels, scale=value),
    ):
        with pytest.raises(
            ValueError, match=r"^scale: got .*; expected a (number in \(0, inf\)|floating-point scalar)"
        ):
            call()


def test_other_factors_that_require_a_gradient_are_refused() -> None:
    embeddings, weight, labels = batch()
    smoothing = torch.tensor(0.1, requires_grad=True)
    with pytest.raises(ValueError, match=r"^label_smoothing: got tensor.*; expected a number in \[0, 1\)"):
        margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, label_smoothing=smoothing)
    with pytest.raises(ValueError, match=r"^label_smoothing: got tensor.*; expected a number in \[0, 1\)"):
        linear_softmax_loss(embeddings, weight, labels, label_smoothing=smoothing)
    for place in range(2):
        values = [torch.full((8,), 0.1), torch.tensor(0.3)]
        values[place].requires_grad_()
        with pytest.raises(ValueError, match="^reweighting.requires_grad: got True; expected detached tensors"):
            margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, reweighting=Reweighting(*values))


@pytest.mark.parametrize(
    ("arguments", "accepted", "refused", "bounds"),
    [
        ({"low": 0}, (0, 3.5, 1e300), (-1e-9, math.inf, math.nan, True, None, "1"), r"\[0, inf\)"),
        ({"low": 0, "high": 1, "low_open": True}, (1e-9, 0.5), (0, 1), r"\(0, 1\)"),
        ({"low": 0, "high": 1, "high_open": False}, (0, 1), (1 + 1e-9, -1e-9), r"\[0, 1\]"),
    ],
)
def test_check_number_knows_both_ends(arguments: dict, accepted: tuple, refused: tuple, bounds: str) -> None:
    for value in accepted:
        check_number("name", value, **arguments)
    for value in refused:
        with pytest.raises(ValueError, match=rf"^name: got {value!r}; expected a number in {bounds}"):
            check_number("name", value, **arguments)


def test_counts_and_choices() -> None:
    check_count("count", 1, low=1)
    for value in (0, 1.0, True, "1", None):
        with pytest.raises(ValueError, match=f"^count: got {value!r}; expected a whole number of at least 1"):
            check_count("count", value, low=1)
    check_choice("choice", "a", ("a", "b"))
    with pytest.raises(ValueError, match="^choice: got 'c'; expected one of 'a', 'b'"):
        check_choice("choice", "c", ("a", "b"))
