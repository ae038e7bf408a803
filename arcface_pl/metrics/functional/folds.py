"""Pair accuracy by cross-validation, as on Labeled Faces in the Wild."""

from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.metrics.functional.curve import VerificationCurve
from arcface_pl.metrics.functional.validation import check_labels, check_scores

__all__ = ["FoldAccuracy", "fold_accuracy"]


class FoldAccuracy(NamedTuple):
    """Accuracy of a verification by cross-validation.

    Attributes:
        mean: Mean of the folds' accuracies, a fraction.
        standard_error: Their sample standard deviation over the root of their number.
        accuracies: Of each fold, (F,), float64.
        thresholds: Chosen on the other folds, (F,), float64.
    """

    mean: float
    standard_error: float
    accuracies: Tensor
    thresholds: Tensor


@torch.no_grad()
def fold_accuracy(scores: Tensor, is_genuine: Tensor, folds: Tensor | int = 10) -> FoldAccuracy:
    """Share of pairs decided rightly, each fold with the threshold that was best on the other folds.

    A pair is accepted when score >= threshold. The threshold lies half-way between the two neighbouring scores that the
    best cut of the other folds separates; of several equally good cuts the strictest is taken. So no pair has a part in
    choosing the threshold that judges it, provided that folds share no class either: LFW's lists are made so.

    Args:
        scores: One for each pair, (P,), any real dtype, higher = more alike.
        is_genuine: Whether both images of a pair are of one class, (P,), bool or integers 0 and 1.
        folds: Fold of each pair, (P,), any integers, or the number of folds: then the pairs are cut in their order into
            that many nearly equal parts (an LFW list has 300 genuine and 300 impostor pairs for each of ten folds).

    Returns:
        Mean accuracy, its standard error, and accuracy and threshold of each fold, in ascending order of fold.

    Raises:
        ValueError: If the shapes do not fit, a score is NaN or infinite, there are fewer than two folds, or a fold has
            pairs of one kind only.

    Example:
        >>> import torch
        >>> scores = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.4, 0.6])
        >>> result = fold_accuracy(scores, torch.tensor([1, 0, 1, 0, 1, 0]), folds=3)
        >>> result.accuracies.tolist()
        [1.0, 1.0, 0.0]

    Reference:
        Huang, Ramesh, Berg, Learned-Miller, "Labeled Faces in the Wild", 2007.
    """
    scores = check_scores("scores", scores).double()
    if isinstance(is_genuine, Tensor) and is_genuine.dtype == torch.bool:
        is_genuine = is_genuine.long()
    genuine = check_labels("is_genuine", is_genuine, len(scores)).to(scores.device)
    if not ((genuine == 0) | (genuine == 1)).all():
        raise ValueError("is_genuine must hold booleans, or integers 0 and 1")
    fold_of = _fold_of(folds, len(scores)).to(scores.device)
    accuracies, thresholds = [], []
    for fold in fold_of.unique():
        held_out = fold_of == fold
        if len(genuine[held_out].unique()) != 2:
            raise ValueError(f"every fold must hold genuine and impostor pairs, but fold {int(fold)} has only one kind")
        threshold = _best_threshold(scores[~held_out], genuine[~held_out])
        accuracies.append(((scores[held_out] >= threshold) == genuine[held_out].bool()).double().mean())
        thresholds.append(threshold)
    result = torch.stack(accuracies)
    return FoldAccuracy(
        float(result.mean()), float(result.std()) / len(result) ** 0.5, result, result.new_tensor(thresholds)
    )


def _fold_of(folds: Tensor | int, num_pairs: int) -> Tensor:
    if isinstance(folds, int):
        if not 2 <= folds <= num_pairs:
            raise ValueError(f"folds must be between 2 and the number of pairs, {num_pairs}, got {folds}")
        return torch.arange(num_pairs) * folds // num_pairs
    fold_of = check_labels("folds", folds, num_pairs)
    if len(fold_of.unique()) < 2:
        raise ValueError("folds must name at least two folds, got one")
    return fold_of


def _best_threshold(scores: Tensor, genuine: Tensor) -> float:
    curve = VerificationCurve.from_counts(scores, genuine, 1 - genuine)
    best = int((curve.genuine - curve.impostor).argmax())  # correct decisions, up to a constant; the first maximum
    upper = float(curve.thresholds[best])
    if best + 1 == len(curve.thresholds):
        return upper
    lower = float(curve.thresholds[best + 1])
    middle = lower + (upper - lower) / 2
    return middle if middle > lower else upper  # two neighbouring floats have nothing between them
