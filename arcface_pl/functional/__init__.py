"""The maths of angular-margin losses as pure functions on tensors."""

from arcface_pl.functional.angles import cosine_similarity_matrix
from arcface_pl.functional.loss import margin_softmax_loss, non_target_logsumexp
from arcface_pl.functional.psi import arcface_psi

__all__ = ["arcface_psi", "cosine_similarity_matrix", "margin_softmax_loss", "non_target_logsumexp"]
