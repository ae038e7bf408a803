"""Verification scores as insightface computes and prints them, for comparison with numbers published that way."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arcface_pl.errors import SettingsError, expected

FAR = 1e-3
NUM_FOLDS = 10


def with_mirrored(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return what maps images (B, C, H, W) to embeddings of them and of the mirrored images, (B, 2 D)."""
    return lambda images: torch.cat((network(images), network(images.flip(3))), dim=1)


def insightface_scores(embeddings: Tensor, mirrored: Tensor, pairs: tuple[Tensor, ...]) -> dict[str, float]:
    """Score a list of pairs by the squared distance of normalized sums of embeddings of an image and its mirror image.

    The ten folds are consecutive parts of the list. Thresholds are those of a grid (0.01 for the accuracy, 0.001 for
    TAR at FAR) and chosen on the other nine. The threshold of TAR at FAR is interpolated between the largest one with
    FAR <= 0.001 and the next, since ``interp1d`` of insightface is not defined where several have the same FAR.

    Args:
        embeddings: (N, D), not normalized.
        mirrored: (N, D), of the mirrored images.
        pairs: ``first`` and ``second``, (P,) int64 indices, and ``is_genuine``, (P,) bool; more is ignored.

    Returns:
        ``xnorm``, the mean length of all embeddings; ``accuracy`` and ``accuracy_std``; ``tar``, ``tar_std`` and
        ``far`` measured at the thresholds. Standard deviations are those of the folds, not divided by their number.

    Raises:
        SettingsError: If the list has fewer than ten pairs, or folds that leave no pair of a kind for the threshold.
    """
    first, second, genuine = pairs[0], pairs[1], pairs[2].numpy()
    unit = F.normalize(embeddings.double() + mirrored.double(), dim=1)
    distance = (unit[first] - unit[second]).square().sum(1).numpy()
    if len(genuine) < NUM_FOLDS:
        raise SettingsError(expected("--insightface: pairs", len(genuine), f"at least {NUM_FOLDS}, one per fold"))
    fold_of = np.concatenate([np.full(len(part), n) for n, part in enumerate(np.array_split(genuine, NUM_FOLDS))])
    coarse, fine = np.arange(0, 4, 0.01), np.arange(0, 4, 0.001)
    correct = (distance[:, None] < coarse) == genuine[:, None]
    accuracies, tars, fars = [], [], []
    for fold in range(NUM_FOLDS):
        held_out = fold_of == fold
        accuracies.append(correct[held_out, correct[~held_out].sum(0).argmax()].mean())
        impostor = np.sort(distance[~held_out & ~genuine])
        if not len(impostor) or not (~held_out & genuine).any():
            raise SettingsError(expected("--insightface: pairs", "pairs of one kind", "both kinds in the other folds"))
        far = np.searchsorted(impostor, fine, side="left") / len(impostor)
        threshold = np.interp(FAR, far, fine) if far.max() >= FAR else 0.0
        accepted = distance[held_out] < threshold
        tars.append(accepted[genuine[held_out]].mean() if genuine[held_out].any() else np.nan)
        fars.append(accepted[~genuine[held_out]].mean() if (~genuine[held_out]).any() else np.nan)
    lengths = [each.double().norm(dim=1).mean() for each in (embeddings, mirrored)]
    return {
        "xnorm": float(sum(lengths) / 2),
        "accuracy": float(np.mean(accuracies)),
        "accuracy_std": float(np.std(accuracies)),
        "tar": float(np.nanmean(tars)),
        "tar_std": float(np.nanstd(tars)),
        "far": float(np.nanmean(fars)),
    }


def insightface_lines(name: str, scores: dict[str, float]) -> list[str]:
    """Word the scores as insightface prints them."""
    return [
        f"[{name}]XNorm: {scores['xnorm']:.6f}",
        f"[{name}]Accuracy-Flip: {scores['accuracy']:.5f}+-{scores['accuracy_std']:.5f}",
        f"[{name}]TAR@FAR: {scores['tar']:.5f}+-{scores['tar_std']:.5f} @ FAR={scores['far']:.5f}",
    ]
