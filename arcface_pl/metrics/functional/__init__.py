"""Metrics as pure functions on tensors."""

from arcface_pl.metrics.functional.all_pairs import all_pairs_curve
from arcface_pl.metrics.functional.angles import TargetAngles, center_angles, target_angles
from arcface_pl.metrics.functional.curve import ROC, Rates, VerificationCurve
from arcface_pl.metrics.functional.folds import FoldAccuracy, fold_accuracy, have_both_kinds
from arcface_pl.metrics.functional.pair_blocks import listed_pair_scores, pair_scores
from arcface_pl.metrics.functional.precision_at_r import (
    PrecisionAtR,
    mean_average_precision_at_r,
    precision_at_r,
    r_precision,
)
from arcface_pl.metrics.functional.retrieval import (
    cumulative_match_characteristic,
    knn_accuracy,
    precision_at_k,
    recall_at_k,
)
from arcface_pl.metrics.functional.verification import (
    auc,
    equal_error_rate,
    rates_at_threshold,
    roc,
    tar_at_far,
    verification_curve,
)

__all__ = [
    "ROC",
    "FoldAccuracy",
    "PrecisionAtR",
    "Rates",
    "TargetAngles",
    "VerificationCurve",
    "all_pairs_curve",
    "auc",
    "center_angles",
    "cumulative_match_characteristic",
    "equal_error_rate",
    "fold_accuracy",
    "have_both_kinds",
    "knn_accuracy",
    "listed_pair_scores",
    "mean_average_precision_at_r",
    "pair_scores",
    "precision_at_k",
    "precision_at_r",
    "r_precision",
    "rates_at_threshold",
    "recall_at_k",
    "roc",
    "tar_at_far",
    "target_angles",
    "verification_curve",
]
