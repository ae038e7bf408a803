"""Cosine thresholds for "same class?" (verification) and "known class?" (classification)."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from arcface_pl.errors import expected
from arcface_pl.heads import Head
from arcface_pl.metrics.functional import VerificationCurve, all_pairs_curve, verification_curve

DEFAULT_FAR = 1e-3
"""False accept rate of thresholds unless another is requested."""
LEAST_TAR = 0.5
"""A threshold that accepts a smaller share of the known images is reported."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and its rates on the scores it was chosen on.

    Attributes:
        threshold: Scores >= threshold are accepted.
        far: Share of accepted impostor scores.
        tar: Share of accepted genuine scores.
        eer: Equal error rate of these scores, independent of the threshold.
        num_genuine: Number of genuine scores.
        num_impostor: Number of impostor scores.
    """

    threshold: float
    far: float
    tar: float
    eer: float
    num_genuine: int
    num_impostor: int

    def check(self, most: int) -> None:
        """Check numbers that were read from a file.

        Args:
            most: Largest possible number of scores of a kind.

        Raises:
            ValueError: If the threshold is no cosine, a rate is not in [0, 1], or a number of scores is impossible.
        """
        # A threshold that rejects every score is a little above the largest
        rates, counts = (self.far, self.tar, self.eer), (self.num_genuine, self.num_impostor)
        if not (abs(self.threshold) < 1.001 and all(0 <= rate <= 1 for rate in rates)):
            raise ValueError("a number is missing or out of range")
        if not all(1 <= count <= most for count in counts):
            raise ValueError(f"scores: got {counts}; expected at most {most} of each kind")

    @classmethod
    def of_curve(cls, curve: VerificationCurve, far: float) -> Self:
        """Choose the lowest threshold whose FAR is at most ``far``."""
        tar, threshold = curve.tar_at_far(far)
        if math.isinf(threshold):
            # The highest score is an impostor's: a threshold above it rejects every score
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
    """Thresholds of a trained model and the images they were chosen on.

    Attributes:
        far: Requested false accept rate.
        source: Where the images come from: "validation", "held-out classes" if some belong to classes that the model
            was not trained on, or a name given by the user.
        num_images: Number of images.
        verification: For the cosine between two images.
        classification: For the cosine between an image and the nearest class center; None if there was no other class.
    """

    far: float
    source: str
    num_images: int
    verification: OperatingPoint
    classification: OperatingPoint | None

    @property
    def notice(self) -> str | None:
        """What to know of a threshold that calls most images of known classes unknown; None if it does not.

        The highest ``far`` of the impostor scores decide the threshold. Of few images that is a single one, which a
        wrong label or two classes that look alike can put anywhere.
        """
        point = self.classification
        if point is None or point.tar >= LEAST_TAR:
            return None
        return (
            f"the threshold for known classes ({point.threshold:.3f}) accepts only {point.tar:.1%} of the images of "
            f"these classes: the others are called unknown. At a false accept rate of {self.far:g} the highest of "
            f"{point.num_impostor:,} scores ({self.source}) decide it. Train longer, look for wrong labels and classes "
            "that look alike, or set far of the callback ThresholdCalibration to 0.02"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint or JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Restore from the result of `to_dict`.

        Raises:
            ValueError: If a value is missing, of the wrong type, or impossible.
        """
        try:
            points = {
                name: None if values[name] is None else OperatingPoint(**values[name])
                for name in ("verification", "classification")
            }
            far, verification = float(values["far"]), points["verification"]
            source, num_images = str(values["source"]), int(values["num_images"])
            if verification is None or not 0 <= far <= 1:
                raise ValueError("a number is missing or out of range")
            verification.check(num_images * (num_images - 1) // 2)
            if points["classification"] is not None:
                points["classification"].check(num_images)
            return cls(far, source, num_images, verification, points["classification"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(expected("calibration", values, f"the dict of Calibration.to_dict ({error})")) from error


class Scored(NamedTuple):
    """Embeddings and their cosines to the trained classes.

    Attributes:
        embeddings: (N, D), any real dtype, any norm.
        labels: (N,) integers; for classes that were not trained on, any numbers that tell them apart.
        own: (N,) cosine to the target class; unused for classes that were not trained on.
        other: (N,) largest cosine to any other trained class; -inf if there is none.
    """

    embeddings: Tensor
    labels: Tensor
    own: Tensor
    other: Tensor

    @classmethod
    def by(cls, head: Head, embeddings: Tensor, labels: Tensor, *, trained: bool = True) -> "Scored":
        """Compute the cosines with a head in evaluation mode; ``trained``: the labels are its classes."""
        if not trained:
            best = head.cosine(embeddings).amax(1)
            return cls(embeddings, labels, best, best)
        found = head.score(embeddings, labels)
        return cls(embeddings, labels, found.target_cosine, found.nearest_other_cosine)


@torch.no_grad()
def calibrate(
    known: Scored | None, unknown: Scored | None = None, *, far: float = DEFAULT_FAR, source: str
) -> Calibration:
    r"""Choose both thresholds at a false accept rate, on images that were not trained on.

    Verification: genuine and impostor scores are the cosines of all pairs of the same class and of different classes.
    Classification: the genuine score is :math:`\cos\theta_y`, the impostor score :math:`\max_{j \ne y} \cos\theta_j`,
    the score that the image would get if its class were unknown.

    Trained classes are farther apart than unseen ones: a threshold from them accepts more than ``far`` of the impostors
    among unseen classes. With images of ``unknown`` classes both thresholds are therefore chosen on those: on the pairs
    among them (with the known images if the unknown ones are of a single class), and on their largest cosine to any
    class center as impostor scores.

    Args:
        known: Images of the trained classes; without them there is no threshold for classification.
        unknown: Images of classes that were not trained on.
        far: False accept rate, in [0, 1].
        source: Name of the images, for `Calibration.source`.

    Returns:
        The thresholds with their rates on these images.

    Raises:
        ValueError: If an embedding is not finite, ``far`` is out of range, or there are no pairs of one kind.
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
    """Return at most ``limit`` of ``count`` indices, (K,) int64, evenly spread, since images may be sorted by class."""
    return torch.linspace(0, max(count - 1, 0), min(count, limit)).round().long()


def _pairs_curve(known: Scored | None, unknown: Scored | None, far: float) -> VerificationCurve:
    parts = [part for part in (unknown, known) if part is not None]
    if unknown is not None and len(unknown.labels.unique()) > 1:
        parts = [unknown]
    # Each part numbers its classes from 0
    labels = torch.cat([part.labels * len(parts) + place for place, part in enumerate(parts)])
    return all_pairs_curve(torch.cat([part.embeddings for part in parts]), labels, far=[far])
