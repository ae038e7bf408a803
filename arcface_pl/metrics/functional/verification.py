"""Error rates of a verification from the scores of its genuine and impostor pairs."""

from typing import Literal, overload

import torch
from torch import Tensor

from arcface_pl.metrics.functional.curve import ROC, Rates, VerificationCurve
from arcface_pl.metrics.functional.validation import check_scores

__all__ = ["auc", "equal_error_rate", "rates_at_threshold", "roc", "tar_at_far", "verification_curve"]


def verification_curve(genuine: Tensor, impostor: Tensor) -> VerificationCurve:
    """Count the pairs that each distinct score accepts, once, for all the error rates that follow from it.

    Args:
        genuine: Scores of pairs of one class, (G,), any real dtype, higher = more alike. Finite, at least one.
        impostor: Scores of pairs of two classes, (I,), likewise.

    Returns:
        A curve with one point for each distinct score, after a first one that accepts nothing.

    Raises:
        ValueError: If a tensor is empty, not 1-D, or holds NaN or infinity.
    """
    genuine, impostor = check_scores("genuine", genuine), check_scores("impostor", impostor)
    if genuine.device != impostor.device:
        raise ValueError(f"genuine and impostor must be on one device, got {genuine.device} and {impostor.device}")
    is_genuine = torch.zeros(len(genuine) + len(impostor), dtype=torch.int64, device=genuine.device)
    is_genuine[: len(genuine)] = 1
    return VerificationCurve.from_counts(torch.cat((genuine, impostor)), is_genuine, 1 - is_genuine)


def roc(genuine: Tensor, impostor: Tensor) -> ROC:
    """The receiver operating characteristic, one point for each distinct score.

    FAR(t) = #{impostor >= t} / I and TAR(t) = #{genuine >= t} / G. The points are those of scikit-learn's ``roc_curve``
    with ``drop_intermediate=False``.

    Args:
        genuine: Scores of pairs of one class, (G,), any real dtype, higher = more alike. Finite, at least one.
        impostor: Scores of pairs of two classes, (I,), likewise.

    Returns:
        ``(far, tar, thresholds)``, each (K,); see `ROC`.

    Raises:
        ValueError: If a tensor is empty, not 1-D, or holds NaN or infinity.

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
    """The error rate at which as many genuine pairs are refused as impostor pairs are accepted.

    A finite sample's FAR and FRR = 1 - TAR are steps, which seldom meet. The points of the ROC are therefore joined by
    straight lines, and the answer is their crossing with TAR = 1 - FAR; this is also what a root finder gives on
    scikit-learn's ``roc_curve``. Where no two scores tie, the mean of FAR and FRR at the threshold where they are
    closest is within half a pair's weight of it. Scores that are all equal give 0.5, for either kind is then as
    likely to be ranked first.

    Args:
        genuine: Scores of pairs of one class, (G,), any real dtype, higher = more alike. Finite, at least one.
        impostor: Scores of pairs of two classes, (I,), likewise.
        return_threshold: Also return the observed score at which ``|FAR - FRR|`` is smallest; of the two next to the
            crossing the lower one if they are equally good.

    Returns:
        The rate in [0, 1], or (rate, threshold).

    Raises:
        ValueError: If a tensor is empty, not 1-D, or holds NaN or infinity.

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
    """The largest true accept rate that any threshold reaches with a false accept rate of at most ``far``.

    Nothing is interpolated: with I impostors the FAR is one of 0, 1/I, 2/I, ..., so that a ``far`` below 1/I asks for
    no false accept at all.

    Args:
        genuine: Scores of pairs of one class, (G,), any real dtype, higher = more alike. Finite, at least one.
        impostor: Scores of pairs of two classes, (I,), likewise.
        far: The false accept rate allowed, in [0, 1].
        return_threshold: Also return the lowest observed score with FAR <= far; inf where every score accepts too many.

    Returns:
        The rate in [0, 1], or (rate, threshold).

    Raises:
        ValueError: If a tensor is empty, not 1-D, or holds NaN or infinity, or if ``far`` is outside [0, 1].

    Example:
        >>> import torch
        >>> tar_at_far(torch.tensor([0.9, 0.8, 0.7, 0.2]), torch.tensor([0.75, 0.3]), far=0.0)
        0.5
    """
    rate, threshold = verification_curve(genuine, impostor).tar_at_far(far)
    return (rate, threshold) if return_threshold else rate


def auc(genuine: Tensor, impostor: Tensor) -> float:
    """The area under the ROC: P(genuine > impostor) + P(genuine = impostor) / 2 over all G x I combinations.

    Args:
        genuine: Scores of pairs of one class, (G,), any real dtype, higher = more alike. Finite, at least one.
        impostor: Scores of pairs of two classes, (I,), likewise.

    Returns:
        The area in [0, 1]; 0.5 where all scores are equal.

    Raises:
        ValueError: If a tensor is empty, not 1-D, or holds NaN or infinity.

    Example:
        >>> import torch
        >>> auc(torch.tensor([0.9, 0.4]), torch.tensor([0.4, 0.1]))
        0.875
    """
    return verification_curve(genuine, impostor).auc()


def rates_at_threshold(genuine: Tensor, impostor: Tensor, threshold: float) -> Rates:
    """FAR and TAR at a threshold chosen elsewhere, as it must be for the rates to be honest.

    Args:
        genuine: Scores of pairs of one class, (G,), any real dtype, higher = more alike. Finite, at least one.
        impostor: Scores of pairs of two classes, (I,), likewise.
        threshold: A pair is accepted when its score is at least this.

    Returns:
        ``(far, tar)``, fractions.

    Raises:
        ValueError: If a tensor is empty, not 1-D, or holds NaN or infinity.

    Example:
        >>> import torch
        >>> rates_at_threshold(torch.tensor([0.9, 0.4]), torch.tensor([0.4, 0.1]), threshold=0.5)
        Rates(far=0.0, tar=0.5)
    """
    return verification_curve(genuine, impostor).rates_at_threshold(threshold)
