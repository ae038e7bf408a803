"""Verification over all pairs of embeddings, and over a list of pairs."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from arcface_pl.metrics.functional.all_pairs import all_pairs_curve
from arcface_pl.metrics.functional.curve import VerificationCurve
from arcface_pl.metrics.functional.folds import fold_accuracy, have_both_kinds
from arcface_pl.metrics.functional.validation import (
    check,
    check_fraction,
    check_genuine,
    check_labels,
    check_list,
    check_scores,
)
from arcface_pl.metrics.functional.verification import verification_curve
from arcface_pl.metrics.states import EmbeddingMetric, ListMetric


class AllPairsVerification(EmbeddingMetric):
    """Verification of every embedding against every other: EER, TAR@FAR and AUC over all N (N - 1) / 2 pairs.

    ``compute`` returns ``eer``, ``eer_threshold``, ``auc`` and a key such as ``tar_at_far_0.001`` for each rate; see
    `arcface_pl.metrics.functional.all_pairs_curve` for their definitions and `EmbeddingMetric` for several processes.
    Without genuine or without impostor pairs the scores are NaN, with a warning.

    Args:
        far: False accept rates, in [0, 1].
        kwargs: Passed to `torchmetrics.Metric`.

    Raises:
        ValueError: If a rate is out of range.

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
        self.far = [check_fraction("far", rate) for rate in check_list("far", far, "numbers in [0, 1]")]

    def compute(self) -> dict[str, Tensor]:
        """Return EER, its threshold, AUC and TAR@FAR of all batches."""
        embeddings, labels = self.rows("embeddings"), self.rows("labels")
        num_classes = len(labels.unique())
        has_both = 1 < num_classes < len(labels)
        curve = all_pairs_curve(embeddings, labels, far=self.far) if has_both else None
        return self.reported(_summary(curve, self.far), f"{len(labels)} embeddings of {num_classes} classes")


class PairVerification(ListMetric):
    """Verification of a list of pairs: EER, TAR@FAR, AUC and, with folds, the pair accuracy of LFW.

    ``compute`` returns ``eer``, ``eer_threshold``, ``auc``, a key such as ``tar_at_far_0.001`` for each rate, and with
    folds ``fold_accuracy`` and ``fold_accuracy_standard_error``. Processes may hold different numbers of pairs. Without
    genuine or without impostor pairs the scores are NaN, with a warning; so is the fold accuracy if there is a single
    fold or one without pairs of both kinds.

    Args:
        far: False accept rates, in [0, 1].
        kwargs: Passed to `torchmetrics.Metric`.

    Raises:
        ValueError: If a rate is out of range.
    """

    scores: list[Tensor]
    is_genuine: list[Tensor]
    folds: list[Tensor]

    def __init__(self, far: Sequence[float] = (1e-1, 1e-2, 1e-3), **kwargs: Any) -> None:
        super().__init__("scores", "is_genuine", "folds", **kwargs)
        self.far = [check_fraction("far", rate) for rate in check_list("far", far, "numbers in [0, 1]")]

    def update(self, scores: Tensor, is_genuine: Tensor, folds: Tensor | None = None) -> None:
        """Add some pairs.

        Args:
            scores: (P,), any real dtype, higher = more alike.
            is_genuine: Whether both images of a pair belong to the same class, (P,), bool or integers 0 and 1.
            folds: Fold of each pair, (P,), any integer dtype; given in every call or in none.

        Raises:
            ValueError: If shapes do not fit, a score is NaN or infinite, or ``is_genuine`` holds another number.
        """
        scores = check_scores("scores", scores, rows=0)
        genuine = check_genuine(is_genuine, len(scores))
        if folds is not None:
            self.folds.append(check_labels("folds", folds, len(scores)))
        self.is_genuine.append(genuine)
        self.scores.append(scores)

    def compute(self) -> dict[str, Tensor]:
        """Return EER, its threshold, AUC, TAR@FAR and the fold accuracy of all batches."""
        scores, is_genuine = self.rows("scores"), self.rows("is_genuine")
        genuine, impostor = scores[is_genuine == 1], scores[is_genuine == 0]
        curve = verification_curve(genuine, impostor) if len(genuine) and len(impostor) else None
        values = _summary(curve, self.far)
        folds = self.rows("folds")
        check(len(folds) in (0, len(scores)), "folds", f"{len(folds)} for {len(scores)} pairs", "one per pair, or none")
        if len(folds):
            found = fold_accuracy(scores, is_genuine, folds) if have_both_kinds(is_genuine, folds) else None
            values["fold_accuracy"] = math.nan if found is None else found.mean
            values["fold_accuracy_standard_error"] = math.nan if found is None else found.standard_error
        return self.reported(values, f"{len(genuine)} genuine and {len(impostor)} impostor pairs")


def _summary(curve: VerificationCurve | None, far: list[float]) -> dict[str, float]:
    # Six digits, unless they are another rate's
    written = [f"{wanted:g}" if float(f"{wanted:g}") == wanted else repr(wanted) for wanted in far]
    names = ["eer", "eer_threshold", "auc", *(f"tar_at_far_{wanted}" for wanted in written)]
    if curve is None:
        return dict.fromkeys(names, math.nan)
    scores = [*curve.equal_error_rate(), curve.auc(), *(curve.tar_at_far(wanted)[0] for wanted in far)]
    return dict(zip(names, scores, strict=True))
