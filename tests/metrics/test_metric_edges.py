"""Every torchmetrics class at the edges: nothing to measure, odd values and settings, merged and kept states."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from arcface_pl.metrics import AllPairsVerification, AngleStatistics, PairVerification, Retrieval
from arcface_pl.metrics.functional import fold_accuracy, knn_accuracy, listed_pair_scores, recall_at_k

GENERATOR = torch.Generator().manual_seed(5)
LABELS = torch.arange(24) % 4
EMBEDDINGS = torch.randn(24, 6, generator=GENERATOR)
CENTERS = torch.randn(4, 6, generator=GENERATOR)
SCORES = torch.randn(24, generator=GENERATOR)
IS_GENUINE = torch.arange(24) % 2 == 0
METRICS: dict[str, tuple[Callable[..., Metric], tuple[Tensor, ...]]] = {
    "all pairs": (AllPairsVerification, (EMBEDDINGS, LABELS)),
    "pairs": (PairVerification, (SCORES, IS_GENUINE)),
    "folds": (PairVerification, (SCORES, IS_GENUINE, torch.arange(24) // 6)),
    "retrieval": (Retrieval, (EMBEDDINGS, LABELS)),
    "angles": (AngleStatistics, (EMBEDDINGS, LABELS, CENTERS)),
}
every_metric = pytest.mark.parametrize(("make", "batch"), METRICS.values(), ids=METRICS)
quiet = pytest.mark.filterwarnings("ignore:.* was called before the ``update``", "ignore:.* do not allow ")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def part(batch: tuple[Tensor, ...], rows: slice) -> list[Tensor]:
    return [each if each is CENTERS else each[rows] for each in batch]


@every_metric
@quiet
def test_without_a_sample_every_score_is_nan(make: Callable[..., Metric], batch: tuple[Tensor, ...]) -> None:
    empty, metric = part(batch, slice(0)), make()
    fresh = metric.compute()
    assert fresh
    for found in (fresh, metric(*empty), metric.compute()):
        assert all(value.isnan() for value in found.values())
        assert list(found) == list(fresh)
    metric.update(*batch)
    whole = make()
    whole.update(*batch)
    assert same(metric.compute(), whole.compute())
    metric.reset()
    assert all(value.isnan() for value in metric.compute().values())


@every_metric
def test_a_clone_a_merged_and_a_kept_state_are_the_metric(
    make: Callable[..., Metric], batch: tuple[Tensor, ...]
) -> None:
    whole, first, second = make(), make(), make()
    whole.update(*batch)
    first.update(*part(batch, slice(10)))
    second.update(*part(batch, slice(10, None)))
    again = first.clone()
    first.merge_state(second)  # the rows of the second come first, and sums of 24 numbers round differently
    torch.testing.assert_close(first.compute(), whole.compute(), rtol=24 * 2**-24, atol=0)
    again.update(*part(batch, slice(10, None)))
    assert same(again.compute(), whole.compute())
    whole.persistent(True)
    kept = make()
    kept.load_state_dict(whole.state_dict())
    kept.update(*part(batch, slice(0)))
    assert same(kept.compute(), whole.compute())


@quiet
def test_a_collection_shares_states_and_can_be_reset() -> None:
    metrics: list[Metric] = [Retrieval([1]), AllPairsVerification(far=[0.5])]
    together = MetricCollection(metrics, prefix="val/")
    for rows in (slice(12), slice(12, None)):
        together.update(EMBEDDINGS[rows], LABELS[rows])
    alone = [Retrieval([1]), AllPairsVerification(far=[0.5])]
    for metric in alone:
        metric.update(EMBEDDINGS, LABELS)
    expected = {f"val/{name}": value for metric in alone for name, value in metric.compute().items()}
    assert same(together.compute(), expected)
    together.reset()
    assert all(value.isnan() for value in together.compute().values())


@pytest.mark.parametrize("make", [AllPairsVerification, Retrieval])
def test_batches_of_different_dtypes_lose_nothing(make: Callable[..., Metric]) -> None:
    whole_numbers = torch.randint(-(10**6), 10**6, (24, 6), generator=torch.Generator().manual_seed(1))
    mixed, exact = make(), make()
    for rows, dtype in ((slice(8), torch.float16), (slice(8, 16), torch.bfloat16)):
        mixed.update(EMBEDDINGS[rows].to(dtype), LABELS[rows])
        exact.update(EMBEDDINGS[rows].to(dtype).double(), LABELS[rows])
    mixed.update(whole_numbers[16:], LABELS[16:])  # beyond float16
    exact.update(whole_numbers[16:].double(), LABELS[16:])
    assert same(mixed.compute(), exact.compute())
    eighth = EMBEDDINGS.to(torch.float8_e4m3fn)
    one, other = make(), make()
    one.update(eighth, LABELS)
    other.update(eighth.float(), LABELS)
    assert same(one.compute(), other.compute())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rows", [24, 1])
@every_metric
def test_what_is_not_finite_is_refused_at_once_and_not_kept(
    make: Callable[..., Metric], batch: tuple[Tensor, ...], rows: int, bad: float
) -> None:
    metric, whole = make(), make()
    for each in (metric, whole):
        each.update(*batch)
    values = batch[0][:rows].clone()
    values[0] = bad
    name = "scores" if batch[0] is SCORES else "embeddings"
    with pytest.raises(ValueError, match=f"^{name}: got .* NaN or infinite of .*; expected a tensor of finite real"):
        metric.update(values, *part(batch[1:], slice(rows)))
    assert same(metric.compute(), whole.compute())


def test_pairs_are_genuine_or_not() -> None:
    for wrong, shown in ((IS_GENUINE.long() * 2 - 1, "[-1, 1]"), (IS_GENUINE.long() * 2, "[0, 2]")):
        with pytest.raises(ValueError, match=re.escape(f"is_genuine: got {shown}; expected booleans, or integers 0")):
            PairVerification().update(SCORES, wrong)
    for odd, name in ((IS_GENUINE.tolist(), "list"), (None, "NoneType"), ("yes", "str")):
        with pytest.raises(ValueError, match=f"^is_genuine: got {name}; expected an integer tensor"):
            PairVerification().update(SCORES, odd)


def test_embeddings_are_one_tensor_of_one_width() -> None:
    for make in (AllPairsVerification, Retrieval):
        metric: Any = make()
        for odd, name in ((EMBEDDINGS.tolist(), "list"), (EMBEDDINGS.numpy(), "ndarray"), (None, "NoneType")):
            with pytest.raises(ValueError, match=f"^embeddings: got {name}; expected a tensor"):
                metric.update(odd, LABELS)
        with pytest.raises(ValueError, match="^embeddings: got torch.sparse_coo; expected a tensor"):
            metric.update(EMBEDDINGS.to_sparse(), LABELS)
        metric.update(EMBEDDINGS, LABELS)
        with pytest.raises(ValueError, match=re.escape("embeddings: got (24, 5); expected shape (B, 6), as before")):
            metric.update(EMBEDDINGS[:, :5], LABELS)


@pytest.mark.parametrize("wrong", [[1.5], [2.0], [True], ["1"], 5, None, "12", [0], [math.nan], [[1]]], ids=repr)
def test_ranks_are_whole_numbers(wrong: Any) -> None:
    with pytest.raises(ValueError, match="^recall_at: got .*; expected whole numbers of at least 1"):
        Retrieval(recall_at=wrong)


@pytest.mark.parametrize("wrong", [[True], ["a"], [None], 0.1, None, [1.5], [math.nan], "0.1"], ids=repr)
@pytest.mark.parametrize("make", [AllPairsVerification, PairVerification])
def test_rates_are_numbers_from_0_to_1(make: Callable[..., Metric], wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^far: got .*; expected (a )?numbers? in \[0, 1\]"):
        make(far=wrong)


@pytest.mark.parametrize("wrong", [1.5, True, "3", math.nan, 0, -1], ids=repr)
def test_counts_are_whole_numbers(wrong: Any) -> None:
    with pytest.raises(ValueError, match="^num_neighbours: got .*; expected a whole number of at least 1"):
        Retrieval(num_neighbours=wrong)
    with pytest.raises(ValueError, match="^sub_centers: got .*; expected a whole number of at least 1"):
        AngleStatistics(sub_centers=wrong)
    for name, score in (("k", recall_at_k), ("k", knn_accuracy)):
        with pytest.raises(ValueError, match=f"^{name}: got .*; expected a whole number from 1 to 23"):
            score(EMBEDDINGS, LABELS, wrong)


def test_numbers_of_numpy_and_torch_are_taken() -> None:
    assert Retrieval(recall_at=np.array([1, 2])).recall_at == [1, 2]  # type: ignore[arg-type]
    assert Retrieval(recall_at=[np.int64(3)]).recall_at == [3]  # type: ignore[list-item]
    assert AllPairsVerification(far=torch.tensor([0.5])).far == [0.5]  # type: ignore[arg-type]
    assert PairVerification(far=np.logspace(-2, -1, 2)).far == pytest.approx([0.01, 0.1])  # type: ignore[arg-type]


def test_two_rates_never_share_a_name() -> None:
    metric = PairVerification(far=[0.1234567, 0.1234568, 0.25])
    metric.update(SCORES, IS_GENUINE)
    names = [name for name in metric.compute() if name.startswith("tar")]
    assert names == ["tar_at_far_0.1234567", "tar_at_far_0.1234568", "tar_at_far_0.25"]


def test_folds_and_indices_of_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="^folds: got True; expected a whole number from 2"):
        fold_accuracy(SCORES, IS_GENUINE, True)
    for odd, name in (([0, 1], "list"), (0, "int"), (torch.zeros(1, 2, dtype=torch.int64), "Tensor")):
        with pytest.raises(ValueError, match=f"^first: got {name}; expected indices"):
            listed_pair_scores(EMBEDDINGS, LABELS, odd, torch.tensor([1, 2]))  # type: ignore[arg-type]
