"""Pair accuracy by folds, against a search over all thresholds."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import KFold

from arcface_pl.metrics.functional import fold_accuracy


def lfw_like(num_folds, per_kind, seed=0, step=None):
    generator = torch.Generator().manual_seed(seed)
    is_genuine = torch.tensor([True] * per_kind + [False] * per_kind).repeat(num_folds)
    scores = torch.randn(len(is_genuine), generator=generator) + is_genuine
    return (scores / step).round() * step if step else scores, is_genuine


def by_search(scores, is_genuine, folds):
    scores, is_genuine = scores.double().numpy(), is_genuine.numpy().astype(bool)
    accuracies = []
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        values = np.unique(scores[train])
        cuts = np.r_[values[0], (values[1:] + values[:-1]) / 2, np.inf]
        right = [((scores[train] >= cut) == is_genuine[train]).sum() for cut in cuts]
        best = cuts[len(cuts) - 1 - np.argmax(right[::-1])]  # the strictest of equally good ones
        accuracies.append(((scores[test] >= best) == is_genuine[test]).mean())
    return np.array(accuracies)


@pytest.mark.parametrize("step", [None, 0.5, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_equals_a_search_over_all_thresholds(seed, step):
    scores, is_genuine = lfw_like(10, 30, seed, step)
    result = fold_accuracy(scores, is_genuine)
    expected = by_search(scores, is_genuine, np.arange(600) // 60)
    assert np.allclose(result.accuracies, expected, rtol=0, atol=1e-15)
    assert result.mean == pytest.approx(expected.mean(), abs=1e-15)
    assert result.standard_error == pytest.approx(expected.std(ddof=1) / np.sqrt(10), abs=1e-15)


def test_named_folds_need_no_order():
    scores, is_genuine = lfw_like(5, 20)
    folds = torch.arange(200) // 40 * 7 - 3
    shuffle = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    result = fold_accuracy(scores[shuffle], is_genuine[shuffle], folds[shuffle])
    assert torch.equal(result.accuracies, fold_accuracy(scores, is_genuine, folds=5).accuracies)


def test_numbered_folds_are_nearly_equal_parts_in_order():
    scores, is_genuine = lfw_like(7, 3)
    folds = np.empty(42, dtype=int)
    for fold, (_, test) in enumerate(KFold(5).split(folds)):
        folds[test] = fold
    sizes = np.bincount(np.arange(42) * 5 // 42)
    assert sizes.max() - sizes.min() == 1
    assert sorted(np.bincount(folds)) == sorted(sizes)
    expected = by_search(scores, is_genuine, np.arange(42) * 5 // 42)
    assert np.allclose(fold_accuracy(scores, is_genuine, folds=5).accuracies, expected)


def test_a_fold_has_no_part_in_its_own_threshold():
    scores, is_genuine = lfw_like(4, 25)
    before = fold_accuracy(scores, is_genuine, folds=4)
    scores = scores.clone()
    scores[50:100] = -scores[50:100]
    after = fold_accuracy(scores, is_genuine, folds=4)
    assert after.thresholds[1] == before.thresholds[1]
    assert after.accuracies[1] != before.accuracies[1]


def test_threshold_lies_between_neighbouring_scores():
    scores = torch.tensor([1.0, 0.0, 0.8, 0.2])
    result = fold_accuracy(scores, torch.tensor([1, 0, 1, 0]), folds=2)
    assert result.thresholds.tolist() == pytest.approx([0.5, 0.5])
    below = float(np.nextafter(1.0, 0.0))
    close = torch.tensor([1.0, below, 1.0, below], dtype=torch.float64)
    assert fold_accuracy(close, torch.tensor([1, 0, 1, 0]), folds=2).thresholds.tolist() == [1.0, 1.0]


def test_constant_scores_give_the_share_of_one_kind():
    result = fold_accuracy(torch.zeros(8), torch.tensor([1, 0] * 4), folds=2)
    assert result.accuracies.tolist() == [0.5, 0.5]
    assert result.standard_error == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 1}, "folds: got 1; expected a whole number from 2 to the number of pairs, 8"),
        ({"folds": 9}, "folds: got 9"),
        ({"folds": torch.zeros(8, dtype=torch.int64)}, "two or more folds"),
        ({"folds": torch.zeros(7, dtype=torch.int64)}, r"folds: got \(7,\)"),
        (
            {"folds": torch.tensor([0, 1] * 4)},
            "folds: got a fold with pairs of one kind; expected genuine and impostor pairs in every one",
        ),
        ({"is_genuine": torch.tensor([2, 0] * 4)}, "integers 0 and 1"),
        ({"is_genuine": torch.ones(8)}, "is_genuine: got torch.float32"),
        ({"is_genuine": torch.ones(7, dtype=torch.bool)}, r"is_genuine: got \(7,\)"),
        ({"scores": torch.zeros(8, 1)}, r"scores: got \(8, 1\); expected shape \(N,\)"),
        ({"scores": torch.full((8,), torch.nan)}, "NaN"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    arguments = {"scores": torch.arange(8.0), "is_genuine": torch.tensor([1, 0] * 4), "folds": 2, **change}
    with pytest.raises(ValueError, match=message):
        fold_accuracy(**arguments)
