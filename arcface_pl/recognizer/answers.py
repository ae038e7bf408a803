"""What a recogniser is asked with, and what it answers."""

from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from arcface_pl.evaluation.thresholds import Calibration
from arcface_pl.recognizer.gallery import Match

__all__ = ["Classification", "Identification", "Picture", "Thresholds", "Verification"]

Picture = str | Path | Tensor | Image.Image
"""A file, a uint8 tensor (C, H, W) with values from 0 to 255, or a PIL image, of any size."""


class Thresholds(NamedTuple):
    """Cosines from which on an answer is given; None where none is known, and nothing is then called unknown.

    Attributes:
        verification: For two pictures, and for a picture and an enrolled name.
        classification: For a picture and the class that it was recognised as.
    """

    verification: float | None
    classification: float | None

    @classmethod
    def of(cls, calibration: Calibration | None) -> "Thresholds":
        """Take them from what was measured, if anything was."""
        if calibration is None:
            return cls(None, None)
        decision = calibration.classification
        return cls(calibration.verification.threshold, None if decision is None else decision.threshold)


class Verification(NamedTuple):
    """How alike two pictures are.

    Attributes:
        cosine: Between their embeddings, in [-1, 1].
        angle: The same in degrees, in [0, 180].
        same: Whether the cosine reaches the threshold; None without a threshold.
    """

    cosine: float
    angle: float
    same: bool | None


class Classification(NamedTuple):
    """The trained class of a picture.

    Attributes:
        name: The winning class.
        cosine: Between the picture's embedding and that class's center.
        unknown: Whether the cosine stays below the threshold; False without a threshold.
    """

    name: str
    cosine: float
    unknown: bool


class Identification(NamedTuple):
    """The enrolled name of a picture.

    Attributes:
        name: The best match's name; None where it stays below the threshold, or nobody is enrolled.
        matches: The best matches with their scores, the best one first.
    """

    name: str | None
    matches: list[Match]
