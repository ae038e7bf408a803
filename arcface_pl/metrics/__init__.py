"""Verification, retrieval and angles: torchmetrics classes over `arcface_pl.metrics.functional`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arcface_pl.metrics.angles import AngleStatistics
    from arcface_pl.metrics.retrieval import Retrieval
    from arcface_pl.metrics.verification import AllPairsVerification, PairVerification

__all__ = ["AllPairsVerification", "AngleStatistics", "PairVerification", "Retrieval"]


def __getattr__(name: str) -> Any:
    # Imported on first use: the functions do without torchmetrics, which imports scipy and matplotlib
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"AngleStatistics": "angles", "Retrieval": "retrieval"}.get(name, "verification")
    return getattr(import_module(f"{__name__}.{module}"), name)
