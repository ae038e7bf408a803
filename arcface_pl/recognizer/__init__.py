"""Inference with a trained model: classification, enrolled names, export."""

from arcface_pl.errors import GalleryError, PretrainedError
from arcface_pl.recognizer.answers import Classification, Embeddings, Identification, Picture, Thresholds, Verification
from arcface_pl.recognizer.gallery import Gallery, Match
from arcface_pl.recognizer.recognizer import Recognizer
from arcface_pl.recognizer.trained import TrainedModel

__all__ = [
    "Classification",
    "Embeddings",
    "Gallery",
    "GalleryError",
    "Identification",
    "Match",
    "Picture",
    "PretrainedError",
    "Recognizer",
    "Thresholds",
    "TrainedModel",
    "Verification",
]
