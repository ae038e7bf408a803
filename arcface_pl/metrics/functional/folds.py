"""Cross-validated pair accuracy, as on Labeled Faces in the Wild."""

from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.metrics.functional.curve import VerificationCurve
from arcface_pl.metrics.functional.validation import check, check_genuine, check_labels, check_scores, check_whole


class FoldAccuracy(NamedTuple):
    """Accuracy of a verification by cross-validation.

    Attributes:
        mean: Mean of the folds' accuracies, a fraction.
        standard_error: Sample standard deviation of the accuracies divided by the square root of their number.
        accuracies: Accuracy of each fold, (F,), float64.
        thresholds: Threshold of each fold, chosen on the other folds, (F,), float64.
    """

    mean: float
    standard_error: float
    accuracies: Tensor
    thresholds: Tensor


@torch.no_grad()
def fold_accuracy(scores: Tensor, is_genuine: Tensor, folds: Tensor | int = 10) -> FoldAccuracy:
    """Compute the accuracy of pair decisions, with the threshold of each fold chosen on the other folds.

    A pair is accepted if score >= threshold. The threshold lies half-way between the two adjacent scores that the best
    cut of the other folds separates; of equally good cuts the strictest is taken. No pair helps to choose its own
    threshold, provided that folds share no class either, as in LFW's lists.

    Args:
        scores: (P,), any real dtype, higher = more alike.
        is_genuine: Whether both images of a pair belong to the same class, (P,), bool or integers 0 and 1.
        folds: Fold of each pair, (P,), any integer dtype, or the number of folds: pairs are then cut in order into
            that many nearly equal parts (an LFW list has ten folds of 300 genuine and 300 impostor pairs).

    Returns:
        Mean accuracy, its standard error, and accuracy and threshold per fold, in ascending order of folds.

    Raises:
        ValueError: If shapes do not fit, a score is NaN or infinite, there are fewer than two folds, or a fold has
            pairs of only one kind.

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
    genuine = check_genuine(is_genuine, len(scores)).to(scores.device)
    fold_of = _fold_of(folds, len(scores)).to(scores.device)
    both = have_both_kinds(genuine, fold_of)
    check(
        both, "folds", "a fold with pairs of one kind", "genuine and impostor pairs in every one of two or more folds"
    )
    accuracies, thresholds = [], []
    for fold in fold_of.unique():
        held_out = fold_of == fold
        threshold = _best_threshold(scores[~held_out], genuine[~held_out])
        accuracies.append(((scores[held_out] >= threshold) == genuine[held_out].bool()).double().mean())
        thresholds.append(threshold)
    result = torch.stack(accuracies)
    return FoldAccuracy(
        float(result.mean()), float(result.std()) / len(result) ** 0.5, result, result.new_tensor(thresholds)
    )


def have_both_kinds(is_genuine: Tensor, folds: Tensor) -> bool:
    """Return whether there are two folds or more, each with genuine and impostor pairs.

    Args:
        is_genuine: (P,), integers 0 and 1 or bool.
        folds: Fold of each pair, (P,), any integer dtype.
    """
    _, fold_of = folds.unique(return_inverse=True)
    sizes = [fold_of[is_genuine == kind].bincount(minlength=int(fold_of.max()) + 1) for kind in (0, 1)]
    return len(sizes[0]) > 1 and bool((torch.stack(sizes) > 0).all())


def _fold_of(folds: Tensor | int, num_pairs: int) -> Tensor:
    if isinstance(folds, int):
        check_whole("folds", folds, 2, num_pairs, f"a whole number from 2 to the number of pairs, {num_pairs}")
        return torch.arange(num_pairs) * folds // num_pairs
    return check_labels("folds", folds, num_pairs)


def _best_threshold(scores: Tensor, genuine: Tensor) -> float:
    curve = VerificationCurve.from_counts(scores, genuine, 1 - genuine)
    best = int((curve.genuine - curve.impostor).argmax())  # correct decisions, up to a constant; the first maximum
    upper = float(curve.thresholds[best])
    if best + 1 == len(curve.thresholds):
        return upper
    lower = float(curve.thresholds[best + 1])
    middle = lower + (upper - lower) / 2
    return middle if middle > lower else upper  # adjacent floats have nothing between them
