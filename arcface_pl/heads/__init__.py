"""Heads: class centers, and what turns embeddings into logits and a loss."""

from arcface_pl.heads.arcface import ArcFaceHead
from arcface_pl.heads.base import AngularHead, Head
from arcface_pl.heads.margin import MarginHead
from arcface_pl.heads.softmax import LinearHead, NormalizedSoftmaxHead

HEADS: dict[str, type[Head]] = {head.__name__: head for head in (ArcFaceHead, LinearHead, NormalizedSoftmaxHead)}
"""The package's heads by class name: what a checkpoint's head is looked up in."""

__all__ = [
    "HEADS",
    "AngularHead",
    "ArcFaceHead",
    "Head",
    "LinearHead",
    "MarginHead",
    "NormalizedSoftmaxHead",
]
