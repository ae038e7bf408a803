"""Error rates from score tensors, against scikit-learn, scipy and counting by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score, roc_curve

from arcface_pl.metrics.functional import (
    VerificationCurve,
    auc,
    equal_error_rate,
    rates_at_threshold,
    roc,
    tar_at_far,
    verification_curve,
)

FARS = [0.0, 1e-4, 1e-3, 0.01, 0.1, 0.29, 1 / 3, 0.3, 0.1 + 0.2, 0.5, 0.7, 1.0]


def normal(num_genuine, num_impostor, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    genuine = torch.randn(num_genuine, generator=generator, dtype=torch.float64) + 1.5
    return genuine.to(dtype), torch.randn(num_impostor, generator=generator, dtype=torch.float64).to(dtype)


CASES = {
    "random": normal(400, 3000),
    "float64": normal(400, 3000, seed=1, dtype=torch.float64),
    "half": normal(300, 1000, seed=2, dtype=torch.float16),
    "bfloat16": normal(300, 1000, seed=3, dtype=torch.bfloat16),
    "tied": tuple((scores * 2).round() / 2 for scores in normal(300, 1000, seed=4)),
    "integers": tuple((scores * 2).round().int() for scores in normal(300, 1000, seed=5)),
    "bytes": tuple((scores * 20 + 100).round().to(torch.uint8) for scores in normal(300, 1000, seed=6)),
    "constant": (torch.full((5,), 0.3), torch.full((9,), 0.3)),
    "separated": (torch.tensor([0.7, 0.8]), torch.tensor([-1.0, 0.6, 0.0])),
    "reversed": (torch.tensor([-0.7, -0.8]), torch.tensor([-0.5, 0.6, 0.0])),
    "one of each": (torch.tensor([0.5]), torch.tensor([0.5])),
    "more genuine": normal(1000, 7, seed=7),
    "neighbouring floats": (torch.tensor([1.0, np.nextafter(np.float32(1), np.float32(0))]), torch.tensor([1.0, 0.0])),
    "signed zeros": (torch.tensor([0.0, -0.0, 1.0]), torch.tensor([-0.0, 0.0, -1.0])),
}
all_cases = pytest.mark.parametrize("scores", CASES.values(), ids=CASES.keys())


def sklearn_inputs(scores):
    genuine, impostor = (part.double().numpy() for part in scores)
    return np.r_[np.ones(len(genuine)), np.zeros(len(impostor))], np.r_[genuine, impostor]


@all_cases
def test_roc_is_that_of_scikit_learn(scores):
    far, tar, thresholds = roc(*scores)
    expected = roc_curve(*sklearn_inputs(scores), drop_intermediate=False)
    assert np.array_equal(far, expected[0])
    assert np.array_equal(tar, expected[1])
    assert np.array_equal(thresholds.double(), expected[2])


@all_cases
def test_equal_error_rate_is_the_root_on_the_interpolated_roc(scores):
    far, tar, _ = roc_curve(*sklearn_inputs(scores))
    expected = brentq(lambda x: 1 - x - interp1d(far, tar)(x), 0, 1, xtol=1e-14)
    assert equal_error_rate(*scores) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_without_ties_the_closest_threshold_is_within_half_a_pair(seed):
    genuine, impostor = normal(37, 211, seed=seed, dtype=torch.float64)
    far, tar, thresholds = roc_curve(*sklearn_inputs((genuine, impostor)), drop_intermediate=False)
    closest = np.abs(far - (1 - tar)).argmin()
    rate, threshold = equal_error_rate(genuine, impostor, return_threshold=True)
    assert abs(rate - (far[closest] + 1 - tar[closest]) / 2) <= 0.5 / 37
    measured = rates_at_threshold(genuine, impostor, threshold)
    assert abs(measured.far - (1 - measured.tar)) == np.abs(far - (1 - tar)).min()
    assert threshold in thresholds


def test_equal_error_rate_of_known_scores():
    # One of four genuine below one of four impostors, and nothing else in disorder.
    genuine, impostor = torch.tensor([0.9, 0.8, 0.7, 0.2]), torch.tensor([0.6, 0.3, 0.1, 0.0])
    assert equal_error_rate(genuine, impostor) == 0.25
    assert equal_error_rate(*CASES["constant"], return_threshold=True) == (0.5, pytest.approx(0.3))
    assert equal_error_rate(*CASES["separated"], return_threshold=True) == (0.0, pytest.approx(0.7))
    assert equal_error_rate(*CASES["reversed"]) == 1.0


@all_cases
def test_tar_at_far_is_the_best_of_all_thresholds(scores):
    genuine, impostor = (part.double().numpy() for part in scores)
    candidates = np.r_[np.unique(np.r_[genuine, impostor]), np.inf]
    false = (impostor >= candidates[:, None]).sum(1) / len(impostor)
    true = (genuine >= candidates[:, None]).sum(1) / len(genuine)
    for far in FARS:
        best = true[false <= far].max()
        assert tar_at_far(*scores, far) == best
        assert tar_at_far(*scores, far, return_threshold=True) == (best, candidates[false <= far].min())


@all_cases
def test_tar_at_far_is_read_off_scikit_learns_roc(scores):
    false, true, _ = roc_curve(*sklearn_inputs(scores), drop_intermediate=False)
    for far in FARS:
        assert tar_at_far(*scores, far) == true[false <= far].max()


@all_cases
def test_auc(scores):
    genuine, impostor = (part.double() for part in scores)
    wins = (genuine[:, None] > impostor).double() + (genuine[:, None] == impostor).double() / 2
    assert auc(*scores) == pytest.approx(float(wins.mean()), abs=1e-12)
    assert auc(*scores) == pytest.approx(roc_auc_score(*sklearn_inputs(scores)), abs=1e-12)
    assert verification_curve(*scores).auc_error() == 0


@all_cases
@pytest.mark.parametrize("threshold", [-math.inf, -0.25, 0.3, 0.5, 2.0, math.inf])
def test_rates_at_threshold_count_what_is_accepted(scores, threshold):
    genuine, impostor = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in scores)
    expected = ((impostor >= threshold).double().mean().item(), (genuine >= threshold).double().mean().item())
    assert rates_at_threshold(*scores, threshold) == pytest.approx(expected, abs=1e-15)


few_scores = st.lists(st.integers(-3, 3), min_size=1, max_size=8).map(lambda values: torch.tensor(values) / 4)


@given(few_scores, few_scores, st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_properties_of_any_scores(genuine, impostor, far):
    rate, threshold = equal_error_rate(genuine, impostor, return_threshold=True)
    assert 0 <= rate <= 1
    assert math.isfinite(threshold)
    # The mirrored problem (what was alike is unlike, and the other way round) has the same error rate.
    assert equal_error_rate(-impostor, -genuine) == pytest.approx(rate, abs=1e-12)
    assert auc(-impostor, -genuine) == pytest.approx(auc(genuine, impostor), abs=1e-12)
    # Any strictly rising map of the scores leaves every rate alone.
    assert equal_error_rate(genuine.exp(), impostor.exp()) == rate
    assert tar_at_far(genuine.exp(), impostor.exp(), far) == tar_at_far(genuine, impostor, far)
    value, limit = tar_at_far(genuine, impostor, far, return_threshold=True)
    measured = rates_at_threshold(genuine, impostor, limit)
    assert measured.tar == value
    assert measured.far <= far
    false, true, thresholds = roc(genuine, impostor)
    assert (false.diff() >= 0).all()
    assert (true.diff() >= 0).all()
    assert (thresholds.diff() < 0).all()


def test_the_order_of_the_scores_does_not_matter():
    genuine, impostor = CASES["tied"]
    shuffled = genuine[torch.randperm(len(genuine), generator=torch.Generator().manual_seed(0))]
    assert torch.equal(roc(shuffled, impostor.flip(0)).tar, roc(genuine, impostor).tar)


def test_counts_beyond_float64_keep_the_crossing_exact():
    # Products of these counts exceed 2**63: FAR = FRR = 1/3 exactly at the middle threshold.
    third = 3**21
    curve = VerificationCurve.from_counts(
        torch.tensor([3.0, 2.0, 1.0]), torch.tensor([third, third, third]), torch.tensor([0, third, 2 * third])
    )
    assert curve.equal_error_rate() == (pytest.approx(1 / 3, abs=1e-15), 2.0)


def test_gradients_are_not_followed():
    genuine, impostor = normal(20, 30)
    far, tar, _ = roc(genuine.requires_grad_(), impostor)
    assert not far.requires_grad
    assert not tar.requires_grad


METRICS = [roc, equal_error_rate, auc, lambda g, i: tar_at_far(g, i, 0.1), lambda g, i: rates_at_threshold(g, i, 0.5)]
GOOD = torch.tensor([0.1, 0.2])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.empty(0), r"got \(0,\); expected shape \(N,\) with at least one score"),
        (torch.tensor(0.5), r"got \(\); expected shape \(N,\)"),
        (torch.rand(2, 3), r"got \(2, 3\)"),
        (torch.tensor([0.1, math.nan, 0.2]), "1 NaN or infinite of 3"),
        (torch.tensor([0.1, math.inf]), "1 NaN or infinite of 2"),
        (torch.tensor([-math.inf]), "1 NaN or infinite of 1"),
        (torch.tensor([True, False]), "got torch.bool; expected a tensor of finite real numbers"),
        (torch.tensor([1j]), "got torch.complex64"),
        ([0.1, 0.2], "got list"),
    ],
)
def test_bad_scores_are_refused_by_name(metric, bad, message):
    with pytest.raises(ValueError, match=f"genuine: .*{message}"):
        metric(bad, GOOD)
    with pytest.raises(ValueError, match=f"impostor: .*{message}"):
        metric(GOOD, bad)


def test_a_threshold_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="^threshold: got nan; expected a number"):
        rates_at_threshold(GOOD, GOOD, math.nan)


@pytest.mark.parametrize("far", [-1e-9, 1.0001, math.nan, math.inf])
def test_a_far_outside_0_to_1_is_refused(far):
    with pytest.raises(ValueError, match=r"^far: got .*; expected a number in \[0, 1\]"):
        tar_at_far(GOOD, GOOD, far)
