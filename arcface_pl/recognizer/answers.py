"""Input and result types of `Recognizer`."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from arcface_pl.evaluation.thresholds import Calibration
from arcface_pl.recognizer.gallery import Match

Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray | Tensor
"""A picture of any size: a path, the content of a file, a file opened for bytes, a PIL image, an array or a tensor."""


@dataclass(frozen=True)
class Embeddings:
    """Embeddings that were computed elsewhere, which every method of `Recognizer` takes in place of pictures.

    Attributes:
        rows: (N, D) or (D,) floating point, of any length but 0.
        made_by: What made them: `TrainedModel.fingerprint`, or the name given to `Recognizer.for_embeddings`. Another
            model refuses them. None: you vouch that the model did.
    """

    rows: np.ndarray | Tensor
    made_by: str | None = None


Pictures = Picture | Iterable[Picture] | Embeddings
"""A picture, several in any iterable, an array or tensor (N, H, W, C) or (N, C, H, W), or embeddings of pictures."""


class Thresholds(NamedTuple):
    """Smallest cosines at which an answer is accepted; None without a threshold: then nothing is called unknown.

    Attributes:
        verification: For two pictures, and for a picture and an enrolled name.
        classification: For a picture and its predicted class.
    """

    verification: float | None
    classification: float | None

    @classmethod
    def of(cls, calibration: Calibration | None) -> "Thresholds":
        """Return the thresholds of a calibration."""
        if calibration is None:
            return cls(None, None)
        decision = calibration.classification
        return cls(calibration.verification.threshold, None if decision is None else decision.threshold)


class Verification(NamedTuple):
    """Similarity of two pictures.

    Attributes:
        cosine: Between their embeddings, in [-1, 1].
        angle: In degrees, in [0, 180].
        same: Whether the cosine is at least the threshold; None without a threshold.
    """

    cosine: float
    angle: float
    same: bool | None


class Classification(NamedTuple):
    """The trained class of a picture.

    Attributes:
        name: The predicted class.
        cosine: Between the embedding and that class's center.
        unknown: Whether the cosine is below the threshold; False without a threshold.
    """

    name: str
    cosine: float
    unknown: bool


class Identification(NamedTuple):
    """The enrolled name of a picture.

    Attributes:
        name: The best match's name; None if it is below the threshold or the gallery is empty.
        matches: The best matches, the best first.
    """

    name: str | None
    matches: list[Match]
