"""Scores as insightface computes them, against its formulas written down plainly."""

import numpy as np
import pytest
import torch

from arcface_pl.errors import SettingsError
from arcface_pl.evaluation.insightface import insightface_lines, insightface_scores, with_mirrored


def plain(first: np.ndarray, second: np.ndarray, same: np.ndarray) -> dict[str, float]:
    """Accuracy and TAR at FAR of insightface's verification.py, pair by pair and threshold by threshold.

    Its ``interp1d`` fails where thresholds share a FAR. The threshold here is found by a search from the other end.
    """
    distances = [float(((a - b) ** 2).sum()) for a, b in zip(first, second, strict=True)]
    size, rest = divmod(len(same), 10)
    bounds = np.cumsum([0, *(size + (fold < rest) for fold in range(10))])
    accuracies, tars, fars = [], [], []
    for fold in range(10):
        test = range(bounds[fold], bounds[fold + 1])
        train = [n for n in range(len(same)) if n not in test]
        best, chosen = -1, 0.0
        for threshold in np.arange(0, 4, 0.01):
            right = sum((distances[n] < threshold) == same[n] for n in train)
            if right > best:
                best, chosen = right, threshold
        accuracies.append(np.mean([(distances[n] < chosen) == same[n] for n in test]))
        impostor = [distances[n] for n in train if not same[n]]
        grid = np.arange(0, 4, 0.001)
        rates = [np.mean([distance < threshold for distance in impostor]) for threshold in grid]
        above = next((n for n, rate in enumerate(rates) if rate > 1e-3), None)
        threshold = 0.0
        if max(rates) >= 1e-3:
            threshold = grid[-1]
            if above is not None:
                low, high = rates[above - 1], rates[above]
                threshold = grid[above - 1] + 0.001 * (1e-3 - low) / (high - low)
        tars.append(np.mean([distances[n] < threshold for n in test if same[n]]))
        fars.append(np.mean([distances[n] < threshold for n in test if not same[n]]))
    return {
        "accuracy": np.mean(accuracies),
        "accuracy_std": np.std(accuracies),
        "tar": np.mean(tars),
        "tar_std": np.std(tars),
        "far": np.mean(fars),
    }


@pytest.mark.parametrize(("count", "spread"), [(100, 0.6), (143, 1.2), (57, 0.05)])
def test_against_the_formulas(count: int, spread: float) -> None:
    draw = np.random.default_rng(count)
    centers = draw.normal(size=(2 * count, 8))
    same = np.arange(count) % 2 == 0
    centers[1::2][same] = centers[0::2][same]
    embeddings, mirrored = (centers + spread * draw.normal(size=centers.shape) for _ in range(2))
    order = draw.permutation(2 * count)  # pairs are indices, wherever the images are
    place = np.argsort(order)
    pairs = tuple(map(torch.from_numpy, (place[0::2], place[1::2], same, np.zeros(count))))
    found = insightface_scores(torch.from_numpy(embeddings[order]), torch.from_numpy(mirrored[order]), pairs)
    total = embeddings + mirrored
    unit = total / np.linalg.norm(total, axis=1, keepdims=True)
    wanted = plain(unit[0::2], unit[1::2], same)
    wanted["xnorm"] = np.mean([np.linalg.norm(row) for row in (*embeddings, *mirrored)])
    assert found == pytest.approx(wanted, abs=1e-12)


def test_the_threshold_lies_between_two_steps_of_a_thousandth() -> None:
    """All impostors are 1.0002 apart: the rate leaves 0 between 1 and 1.001; pairs 0.9995 apart are accepted."""
    same = np.arange(40) % 2 == 0
    angle = np.arccos(1 - np.where(same, 0.9995, 1.0002) / 2)
    rows = np.stack([np.stack([np.ones(40), np.zeros(40)], 1), np.stack([np.cos(angle), np.sin(angle)], 1)], 1)
    embeddings = torch.from_numpy(rows.reshape(80, 2))
    pairs = (torch.arange(0, 80, 2), torch.arange(1, 80, 2), torch.from_numpy(same), torch.zeros(40))
    found = insightface_scores(embeddings, embeddings, pairs)
    assert (found["tar"], found["far"]) == (1, 0)


def test_lines() -> None:
    scores = {"xnorm": 22.5, "accuracy": 0.9985, "accuracy_std": 0.00166, "tar": 0.99, "tar_std": 0.002, "far": 0.001}
    assert insightface_lines("lfw", scores) == [
        "[lfw]XNorm: 22.500000",
        "[lfw]Accuracy-Flip: 0.99850+-0.00166",
        "[lfw]TAR@FAR: 0.99000+-0.00200 @ FAR=0.00100",
    ]


def test_mirrored() -> None:
    images = torch.arange(24.0).view(2, 1, 3, 4)
    found = with_mirrored(lambda batch: batch.flatten(1)[:, :4])(images)
    assert torch.equal(found[:, :4], images[:, 0, 0])
    assert torch.equal(found[:, 4:], images[:, 0, 0].flip(1))


def test_too_few_pairs() -> None:
    pairs = (torch.arange(9), torch.arange(9), torch.ones(9, dtype=torch.bool))
    with pytest.raises(SettingsError, match="--insightface: pairs: got 9; expected at least 10"):
        insightface_scores(torch.ones(9, 2), torch.ones(9, 2), pairs)
    pairs = tuple(each.repeat(2) for each in pairs)
    with pytest.raises(SettingsError, match="got 'pairs of one kind'"):
        insightface_scores(torch.ones(9, 2), torch.ones(9, 2), pairs)
