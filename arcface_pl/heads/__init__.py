"""Heads: class centers, and what turns embeddings into logits and a loss."""

from arcface_pl.heads.adaface import AdaFaceHead
from arcface_pl.heads.angular import AngularHead
from arcface_pl.heads.arcface import ArcFaceHead
from arcface_pl.heads.base import Head, HeadScores
from arcface_pl.heads.centers import deferred_centers
from arcface_pl.heads.combined import CombinedMarginHead
from arcface_pl.heads.cosface import CosFaceHead
from arcface_pl.heads.curricularface import CurricularFaceHead
from arcface_pl.heads.elasticface import ElasticFaceHead
from arcface_pl.heads.in_backward import InBackwardAdam, InBackwardSGD, InBackwardUpdate
from arcface_pl.heads.in_shards import shard_head
from arcface_pl.heads.magface import MagFaceHead
from arcface_pl.heads.margin import MarginHead
from arcface_pl.heads.shard_rows import ShardRows
from arcface_pl.heads.sharded import ShardedHead
from arcface_pl.heads.softmax import LinearHead, NormalizedSoftmaxHead
from arcface_pl.heads.sphereface import SphereFaceHead

HEADS: dict[str, type[Head]] = {
    head.__name__: head
    for head in (
        ArcFaceHead,
        CosFaceHead,
        SphereFaceHead,
        CombinedMarginHead,
        AdaFaceHead,
        MagFaceHead,
        ElasticFaceHead,
        CurricularFaceHead,
        NormalizedSoftmaxHead,
        LinearHead,
    )
}
"""The package's heads by class name: what a checkpoint's head is looked up in."""

__all__ = [
    "HEADS",
    "AdaFaceHead",
    "AngularHead",
    "ArcFaceHead",
    "CombinedMarginHead",
    "CosFaceHead",
    "CurricularFaceHead",
    "ElasticFaceHead",
    "Head",
    "HeadScores",
    "InBackwardAdam",
    "InBackwardSGD",
    "InBackwardUpdate",
    "LinearHead",
    "MagFaceHead",
    "MarginHead",
    "NormalizedSoftmaxHead",
    "ShardRows",
    "ShardedHead",
    "SphereFaceHead",
    "deferred_centers",
    "shard_head",
]
