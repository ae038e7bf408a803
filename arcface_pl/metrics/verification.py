"""Verification metrics: over all pairs of embeddings, and over a list of pairs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from arcface_pl.metrics.functional.all_pairs import all_pairs_curve
from arcface_pl.metrics.functional.curve import VerificationCurve
from arcface_pl.metrics.functional.folds import fold_accuracy
from arcface_pl.metrics.functional.validation import check_fraction, check_labels
from arcface_pl.metrics.functional.verification import verification_curve
from arcface_pl.metrics.states import EmbeddingMetric, gather_rows

__all__ = ["AllPairsVerification", "PairVerification"]


class AllPairsVerification(EmbeddingMetric):
    """Verification of every embedding against every other: EER, TAR@FAR and AUC over all N (N - 1) / 2 pairs.

    ``compute`` gives ``eer``, ``eer_threshold``, ``auc`` and, for each rate, a key such as ``tar_at_far_0.001``; see
    `all_pairs_curve` for what they are and `EmbeddingMetric` for several processes.

    Args:
        far: False accept rates, in [0, 1].
        kwargs: Of `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = AllPairsVerification(far=[0.0])
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.8, 0.6]]), torch.tensor([0, 0]))
        >>> metric.update(torch.tensor([[0.0, 1.0], [-0.6, 0.8]]), torch.tensor([1, 1]))
        >>> {name: round(float(value), 4) for name, value in metric.compute().items()}
        {'eer': 0.0, 'eer_threshold': 0.8, 'auc': 1.0, 'tar_at_far_0': 1.0}
    """

    def __init__(self, far: Sequence[float] = (1e-1, 1e-2, 1e-3), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.far = [check_fraction("far", rate) for rate in far]

    def compute(self) -> dict[str, Tensor]:
        """EER, its threshold, AUC and TAR@FAR of everything added so far."""
        curve = all_pairs_curve(dim_zero_cat(self.embeddings), dim_zero_cat(self.labels), far=self.far)
        return _summary(curve, self.far, self.device)


class PairVerification(Metric):
    """Verification of a list of pairs: EER, TAR@FAR, AUC and, with folds, the pair accuracy of LFW.

    ``compute`` gives ``eer``, ``eer_threshold``, ``auc``, for each rate a key such as ``tar_at_far_0.001``, and with
    folds ``fold_accuracy`` and ``fold_accuracy_standard_error``. Processes may hold different numbers of pairs.

    Args:
        far: False accept rates, in [0, 1].
        kwargs: Of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None

    scores: list[Tensor]
    is_genuine: list[Tensor]
    folds: list[Tensor]

    def __init__(self, far: Sequence[float] = (1e-1, 1e-2, 1e-3), **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_rows, **kwargs})
        self.far = [check_fraction("far", rate) for rate in far]
        for name in ("scores", "is_genuine", "folds"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, is_genuine: Tensor, folds: Tensor | None = None) -> None:
        """Add some pairs.

        Args:
            scores: Of each pair, (P,), any real dtype, higher = more alike.
            is_genuine: Whether both images of a pair are of one class, (P,), bool or integers 0 and 1.
            folds: Fold of each pair, (P,), any integer dtype; given in every call or in none.
        """
        if scores.ndim != 1:
            raise ValueError(f"scores must be a 1-D tensor, got shape {tuple(scores.shape)}")
        flags = is_genuine.long() if is_genuine.dtype == torch.bool else is_genuine
        self.is_genuine.append(check_labels("is_genuine", flags, len(scores)))
        self.scores.append(scores.detach())
        if folds is not None:
            self.folds.append(check_labels("folds", folds, len(scores)))

    def compute(self) -> dict[str, Tensor]:
        """EER, its threshold, AUC, TAR@FAR and the fold accuracy of everything added so far."""
        scores, is_genuine = dim_zero_cat(self.scores), dim_zero_cat(self.is_genuine)
        summary = _summary(verification_curve(scores[is_genuine == 1], scores[is_genuine == 0]), self.far, self.device)
        folds = dim_zero_cat(self.folds) if len(self.folds) else scores.new_empty(0)
        if len(folds) not in (0, len(scores)):
            raise ValueError(
                f"folds must be given for every pair or for none, got {len(folds)} for {len(scores)} pairs"
            )
        if len(folds):
            accuracy = fold_accuracy(scores, is_genuine, folds)
            summary["fold_accuracy"] = torch.tensor(accuracy.mean, device=self.device)
            summary["fold_accuracy_standard_error"] = torch.tensor(accuracy.standard_error, device=self.device)
        return summary


def _summary(curve: VerificationCurve, far: list[float], device: torch.device) -> dict[str, Tensor]:
    rate, threshold = curve.equal_error_rate()
    values = {"eer": rate, "eer_threshold": threshold, "auc": curve.auc()}
    values |= {f"tar_at_far_{wanted:g}": curve.tar_at_far(wanted)[0] for wanted in far}
    return {name: torch.tensor(value, device=device) for name, value in values.items()}
