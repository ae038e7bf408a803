"""Unit rows of any length, as the heads normalize them."""

import pytest
import torch

from arcface_pl.functional import cosine_similarity_matrix
from arcface_pl.metrics.functional import (
    center_angles,
    equal_error_rate,
    listed_pair_scores,
    pair_scores,
    recall_at_k,
    target_angles,
)
from arcface_pl.metrics.functional.cosine import unit_rows

GENERATOR = torch.Generator().manual_seed(0)
ROWS = torch.randn(40, 8, generator=GENERATOR)
LABELS = torch.randint(5, (40,), generator=GENERATOR)
LENGTHS = [1e-44, 1e-38, 1e-30, 1e-12, 1.0, 1e12, 1e30, 1e38]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_any_length_are_those_of_the_heads(length: float, dtype: torch.dtype) -> None:
    rows = ROWS.clamp(-2, 2).to(dtype) * torch.tensor(length, dtype=dtype)  # with few bits left, if subnormal
    unit = unit_rows(rows)
    assert unit.dtype == dtype
    assert torch.allclose(unit.norm(dim=1), torch.ones(40, dtype=dtype), rtol=0, atol=1e-6)
    heads = cosine_similarity_matrix(rows, torch.eye(8, dtype=dtype))
    assert torch.allclose(unit, heads, rtol=0, atol=2e-7)


def test_ordinary_rows_are_normalized_as_torch_does() -> None:
    assert torch.equal(unit_rows(ROWS), torch.nn.functional.normalize(ROWS, dim=1))


def test_zeros_stay_zero() -> None:
    assert not unit_rows(torch.zeros(3, 4)).any()


@pytest.mark.parametrize("length", [1e-30, 1e30])
def test_no_metric_depends_on_the_length(length: float) -> None:
    lengths = torch.where(torch.arange(40) % 2 == 0, length, 1.0)[:, None]
    for expected, found in zip(pair_scores(ROWS, LABELS), pair_scores(ROWS * lengths, LABELS), strict=True):
        assert torch.allclose(expected, found, rtol=0, atol=1e-6)
    assert equal_error_rate(*pair_scores(ROWS * lengths, LABELS)) == equal_error_rate(*pair_scores(ROWS, LABELS))
    assert recall_at_k(ROWS * lengths, LABELS) == recall_at_k(ROWS, LABELS)
    for expected, found in zip(
        target_angles(ROWS, LABELS, ROWS[:5]), target_angles(ROWS * lengths, LABELS, ROWS[:5] * length), strict=True
    ):
        # float32 rounds each entry of a row by 6e-8 of it
        assert torch.allclose(expected, found, rtol=0, atol=1e-6)
    assert torch.allclose(center_angles(ROWS * lengths), center_angles(ROWS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [-1, 40])
@pytest.mark.parametrize("name", ["first", "second"])
def test_an_index_outside_the_embeddings_is_refused(bad: int, name: str) -> None:
    pairs = {"first": torch.tensor([0, 1, 2]), "second": torch.tensor([3, 4, 5])}
    pairs[name][1] = bad
    with pytest.raises(ValueError, match=rf"^{name}: got \[{bad}\]; expected indices in \[0, 40\)"):
        listed_pair_scores(ROWS, LABELS, **pairs)


def test_indices_must_be_integers_of_one_length() -> None:
    with pytest.raises(ValueError, match="^first: got torch.float32; expected an integer tensor"):
        listed_pair_scores(ROWS, LABELS, torch.tensor([0.0]), torch.tensor([1]))
    with pytest.raises(ValueError, match="^second: got torch.float32; expected an integer tensor"):
        listed_pair_scores(ROWS, LABELS, torch.tensor([1]), torch.tensor([0.0]))
    with pytest.raises(ValueError, match=r"^second: got \(2,\); expected an integer tensor of shape \(1,\)"):
        listed_pair_scores(ROWS, LABELS, torch.tensor([0]), torch.tensor([1, 2]))
    small = listed_pair_scores(
        ROWS, LABELS, torch.tensor([0], dtype=torch.int16), torch.tensor([39], dtype=torch.uint8)
    )
    assert torch.equal(small, listed_pair_scores(ROWS, LABELS, torch.tensor([0]), torch.tensor([39])))
