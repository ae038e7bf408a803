"""Error rates of verification from the scores of genuine and impostor pairs."""

from typing import Literal, overload

import torch
from torch import Tensor

from arcface_pl.metrics.functional.curve import ROC, Rates, VerificationCurve
from arcface_pl.metrics.functional.validation import check, check_scores


def verification_curve(genuine: Tensor, impostor: Tensor) -> VerificationCurve:
    """Count the pairs that each distinct score accepts, once for all error rates that follow from it.

    Args:
        genuine: Scores of pairs of the same class, (G,), G >= 1, any real dtype, finite, higher = more alike.
        impostor: Scores of pairs of different classes, (I,), likewise.

    Returns:
        A curve with one point per distinct score, after a first point that accepts nothing.

    Raises:
        ValueError: If a tensor is empty, not 1-D, or has NaN or inf.
    """
    genuine, impostor = check_scores("genuine", genuine), check_scores("impostor", impostor)
    check(genuine.device == impostor.device, "impostor", impostor.device, f"scores on the device {genuine.device}")
    is_genuine = torch.zeros(len(genuine) + len(impostor), dtype=torch.int64, device=genuine.device)
    is_genuine[: len(genuine)] = 1
    return VerificationCurve.from_counts(torch.cat((genuine, impostor)), is_genuine, 1 - is_genuine)


def roc(genuine: Tensor, impostor: Tensor) -> ROC:
    """Compute the receiver operating characteristic, one point per distinct score.

    FAR(t) = #{impostor >= t} / I and TAR(t) = #{genuine >= t} / G. The points equal those of scikit-learn's
    ``roc_curve`` with ``drop_intermediate=False``.

    Args:
        genuine: Scores of pairs of the same class, (G,), G >= 1, any real dtype, finite, higher = more alike.
        impostor: Scores of pairs of different classes, (I,), likewise.

    Returns:
        ``(far, tar, thresholds)``, each (K,); see `ROC`.

    Raises:
        ValueError: If a tensor is empty, not 1-D, or has NaN or inf.

    Example:
        >>> import torch
        >>> far, tar, thresholds = roc(torch.tensor([0.9, 0.4]), torch.tensor([0.4, 0.1]))
        >>> far.tolist(), tar.tolist()
        ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    return verification_curve(genuine, impostor).roc()


@overload
def equal_error_rate(genuine: Tensor, impostor: Tensor, *, return_threshold: Literal[False] = False) -> float: ...
@overload
def equal_error_rate(genuine: Tensor, impostor: Tensor, *, return_threshold: Literal[True]) -> tuple[float, float]: ...
def equal_error_rate(
    genuine: Tensor, impostor: Tensor, *, return_threshold: bool = False
) -> float | tuple[float, float]:
    """Compute the error rate at which as many genuine pairs are rejected as impostor pairs are accepted.

    FAR and FRR = 1 - TAR of a finite sample are steps that rarely meet. The points of the ROC are therefore joined by
    straight lines and intersected with TAR = 1 - FAR, which is also what a root finder gives on scikit-learn's
    ``roc_curve``. Without ties, the mean of FAR and FRR at the threshold where they are closest is within half a pair's
    weight of this. Scores that are all equal give 0.5.

    Args:
        genuine: Scores of pairs of the same class, (G,), G >= 1, any real dtype, finite, higher = more alike.
        impostor: Scores of pairs of different classes, (I,), likewise.
        return_threshold: Also return the observed score with the smallest ``|FAR - FRR|``, the lower of two equally
            good ones.

    Returns:
        The rate in [0, 1], or (rate, threshold).

    Raises:
        ValueError: If a tensor is empty, not 1-D, or has NaN or inf.

    Example:
        >>> import torch
        >>> equal_error_rate(torch.tensor([0.9, 0.8, 0.7, 0.2]), torch.tensor([0.6, 0.3, 0.1, 0.0]))
        0.25
    """
    rate, threshold = verification_curve(genuine, impostor).equal_error_rate()
    return (rate, threshold) if return_threshold else rate


@overload
def tar_at_far(genuine: Tensor, impostor: Tensor, far: float, *, return_threshold: Literal[False] = False) -> float: ...
@overload
def tar_at_far(
    genuine: Tensor, impostor: Tensor, far: float, *, return_threshold: Literal[True]
) -> tuple[float, float]: ...
def tar_at_far(
    genuine: Tensor, impostor: Tensor, far: float, *, return_threshold: bool = False
) -> float | tuple[float, float]:
    """Compute the largest true accept rate of any threshold whose false accept rate is at most ``far``.

    Nothing is interpolated: with I impostor pairs the FAR is one of 0, 1/I, 2/I, ..., so that ``far`` < 1/I allows no
    false accept.

    Args:
        genuine: Scores of pairs of the same class, (G,), G >= 1, any real dtype, finite, higher = more alike.
        impostor: Scores of pairs of different classes, (I,), likewise.
        far: Allowed false accept rate, in [0, 1].
        return_threshold: Also return the lowest observed score with FAR <= far; inf if every score accepts too many.

    Returns:
        The rate in [0, 1], or (rate, threshold).

    Raises:
        ValueError: If a tensor is empty, not 1-D, or has NaN or inf, or if ``far`` is outside [0, 1].

    Example:
        >>> import torch
        >>> tar_at_far(torch.tensor([0.9, 0.8, 0.7, 0.2]), torch.tensor([0.75, 0.3]), far=0.0)
        0.5
    """
    rate, threshold = verification_curve(genuine, impostor).tar_at_far(far)
    return (rate, threshold) if return_threshold else rate


def auc(genuine: Tensor, impostor: Tensor) -> float:
    """Compute the area under the ROC: P(genuine > impostor) + P(genuine = impostor) / 2 over all G x I combinations.

    Args:
        genuine: Scores of pairs of the same class, (G,), G >= 1, any real dtype, finite, higher = more alike.
        impostor: Scores of pairs of different classes, (I,), likewise.

    Returns:
        The area in [0, 1]; 0.5 if all scores are equal.

    Raises:
        ValueError: If a tensor is empty, not 1-D, or has NaN or inf.

    Example:
        >>> import torch
        >>> auc(torch.tensor([0.9, 0.4]), torch.tensor([0.4, 0.1]))
        0.875
    """
    return verification_curve(genuine, impostor).auc()


def rates_at_threshold(genuine: Tensor, impostor: Tensor, threshold: float) -> Rates:
    """Compute FAR and TAR at a threshold, which must have been chosen on other pairs for the rates to be unbiased.

    Args:
        genuine: Scores of pairs of the same class, (G,), G >= 1, any real dtype, finite, higher = more alike.
        impostor: Scores of pairs of different classes, (I,), likewise.
        threshold: Pairs with score >= threshold are accepted.

    Returns:
        ``(far, tar)``, fractions in [0, 1].

    Raises:
        ValueError: If a tensor is empty, not 1-D, or has NaN or inf.

    Example:
        >>> import torch
        >>> rates_at_threshold(torch.tensor([0.9, 0.4]), torch.tensor([0.4, 0.1]), threshold=0.5)
        Rates(far=0.0, tar=0.5)
    """
    return verification_curve(genuine, impostor).rates_at_threshold(threshold)
