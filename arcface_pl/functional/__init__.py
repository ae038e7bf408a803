"""The maths of angular-margin losses as pure functions on tensors."""

from arcface_pl.functional.linear import linear_softmax_loss
from arcface_pl.functional.loss import margin_softmax_loss, non_target_logsumexp
from arcface_pl.functional.margins import adaface_psi, arcface_psi, combined_psi, cosface_psi, sphereface_psi
from arcface_pl.functional.similarity import cosine_similarity_matrix

__all__ = [
    "adaface_psi",
    "arcface_psi",
    "combined_psi",
    "cosface_psi",
    "cosine_similarity_matrix",
    "linear_softmax_loss",
    "margin_softmax_loss",
    "non_target_logsumexp",
    "sphereface_psi",
]
