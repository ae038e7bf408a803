"""Verification, retrieval and angles: torchmetrics over the pure functions of `arcface_pl.metrics.functional`."""

from arcface_pl.metrics.angles import AngleStatistics
from arcface_pl.metrics.retrieval import Retrieval
from arcface_pl.metrics.verification import AllPairsVerification, PairVerification

__all__ = ["AllPairsVerification", "AngleStatistics", "PairVerification", "Retrieval"]
