"""Thresholds: from which cosine on two images count as one class, and an image as one of the trained classes."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from arcface_pl.heads import Head
from arcface_pl.metrics.functional import VerificationCurve, all_pairs_curve, verification_curve

__all__ = ["DEFAULT_FAR", "Calibration", "OperatingPoint", "Scored", "calibrate", "evenly_spread"]

DEFAULT_FAR = 1e-3
"""The false accept rate that a threshold is chosen for where nobody asks for another."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and what it did on the scores it was chosen on.

    Attributes:
        threshold: Cosine from which on a score is accepted.
        far: Share of the impostor scores that it accepts.
        tar: Share of the genuine scores that it accepts.
        eer: The equal error rate of these scores, whatever the threshold.
        num_genuine: Genuine scores.
        num_impostor: Impostor scores.
    """

    threshold: float
    far: float
    tar: float
    eer: float
    num_genuine: int
    num_impostor: int

    @classmethod
    def of_curve(cls, curve: VerificationCurve, far: float) -> Self:
        """Take the lowest threshold whose FAR is at most ``far``."""
        tar, threshold = curve.tar_at_far(far)
        if math.isinf(threshold):
            # The highest score of all is an impostor's: what refuses it refuses everything that was seen.
            threshold = math.nextafter(float(curve.thresholds[1]), math.inf)
        return cls(
            threshold,
            int(curve.impostor[curve.index_at_far(far)]) / curve.num_impostor,
            tar,
            curve.equal_error_rate()[0],
            curve.num_genuine,
            curve.num_impostor,
        )


@dataclass(frozen=True)
class Calibration:
    """The thresholds of a trained model and what they rest on.

    Attributes:
        far: The false accept rate asked for.
        source: Which images it was measured on: "validation" for the validation split, "held-out classes" where some of
            them are of classes that the model was not trained on, or a name the user gave.
        num_images: How many images that were.
        verification: For two images: the cosine between them.
        classification: For an image and the trained classes: the cosine to the nearest class center. None where there
            was nothing to tell a class from.
    """

    far: float
    source: str
    num_images: int
    verification: OperatingPoint
    classification: OperatingPoint | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint or JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` returned.

        Raises:
            ValueError: If something is missing, of another kind, or no number.
        """
        try:
            points = {
                name: None if values[name] is None else OperatingPoint(**values[name])
                for name in ("verification", "classification")
            }
            verification = points["verification"]
            numbers = [float(values["far"])]
            numbers += [
                float(value) for point in points.values() if point is not None for value in asdict(point).values()
            ]
            if verification is None or not all(map(math.isfinite, numbers)):
                raise ValueError("a number is missing or not finite")
            source, num_images = str(values["source"]), int(values["num_images"])
            return cls(numbers[0], source, num_images, verification, points["classification"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"calibration: got {values!r}, which is none ({error})") from error


class Scored(NamedTuple):
    """Embeddings and how near they are to the trained classes.

    Attributes:
        embeddings: (N, D), any real dtype, of any length.
        labels: (N,) integers. Of classes that were not trained on they only need to tell these apart.
        own: (N,) cosine to the own class; of classes that were not trained on never read.
        other: (N,) largest cosine to another class; -inf where there is none.
    """

    embeddings: Tensor
    labels: Tensor
    own: Tensor
    other: Tensor

    @classmethod
    def by(cls, head: Head, embeddings: Tensor, labels: Tensor, *, trained: bool = True) -> "Scored":
        """Score embeddings by a head; ``trained`` says whether the labels are among its classes."""
        cosine = head.cosine(embeddings)
        if not trained:
            best = cosine.amax(1)
            return cls(embeddings, labels, best, best)
        own = cosine.gather(1, labels[:, None]).squeeze(1)
        return cls(embeddings, labels, own, cosine.scatter(1, labels[:, None], -torch.inf).amax(1))


@torch.no_grad()
def calibrate(
    known: Scored | None, unknown: Scored | None = None, *, far: float = DEFAULT_FAR, source: str
) -> Calibration:
    r"""Choose both thresholds at a false accept rate, on images the model was not trained on.

    For two images, genuine and impostor scores are the cosines of all pairs of one class and of two. For an image and
    the trained classes, the genuine score is :math:`\cos\theta_y`, and the impostor score
    :math:`\max_{j \ne y} \cos\theta_j`: what the image would be accepted with if its own class were not there.

    Classes that the model was trained on lie further apart than classes it never saw, so that a threshold from the
    former accepts more impostors among the latter than ``far`` says. With images of ``unknown`` classes both are
    measured on those: pairs among them (where they are of one class, with the others), and their largest cosine to any
    class center as impostor scores.

    Args:
        known: Images of the trained classes. Without any, the class decision has no threshold.
        unknown: Images of classes that were not trained on.
        far: False accept rate, in [0, 1].
        source: What to call the images.

    Returns:
        The thresholds, with the rates they had on these images.

    Raises:
        ValueError: If an embedding is not finite, a rate is out of range, or there are no genuine or no impostor pairs.
    """
    curve = _pairs_curve(known, unknown, far)
    decision = None
    if known is not None:
        impostor = known.other if unknown is None else unknown.other
        if impostor.isfinite().all():
            decision = OperatingPoint.of_curve(verification_curve(known.own, impostor), far)
    num_images = sum(len(part.labels) for part in (known, unknown) if part is not None)
    return Calibration(far, source, num_images, OperatingPoint.of_curve(curve, far), decision)


def evenly_spread(count: int, limit: int) -> Tensor:
    """Return at most ``limit`` of ``count`` positions, (K,) int64, evenly spread: images may be in order of class."""
    return torch.linspace(0, max(count - 1, 0), min(count, limit)).round().long()


def _pairs_curve(known: Scored | None, unknown: Scored | None, far: float) -> VerificationCurve:
    parts = [part for part in (unknown, known) if part is not None]
    if unknown is not None and len(unknown.labels.unique()) > 1:
        parts = [unknown]
    # Each part numbers its classes from 0
    labels = torch.cat([part.labels * len(parts) + place for place, part in enumerate(parts)])
    return all_pairs_curve(torch.cat([part.embeddings for part in parts]), labels, far=[far])
