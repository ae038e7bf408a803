"""How a trained head judges each image: the predicted class and the angles that speak for and against it."""

from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.heads import Head
from arcface_pl.metrics.functional import target_angles


class Judged(NamedTuple):
    """Images of trained classes, one row each; angles are in degrees.

    Attributes:
        labels: (N,) int64, true class.
        predictions: (N,) int64, predicted class.
        target_angle: (N,) angle to the center of the true class.
        predicted_angle: (N,) angle to the center of the predicted class.
        nearest_other: (N,) int64, class of the nearest center of any other class.
        nearest_other_angle: (N,) angle to it.
    """

    labels: Tensor
    predictions: Tensor
    target_angle: Tensor
    predicted_angle: Tensor
    nearest_other: Tensor
    nearest_other_angle: Tensor

    @property
    def margin(self) -> Tensor:
        """(N,) degrees by which the true class is nearer than any other; below 0 where another is nearer."""
        return self.nearest_other_angle - self.target_angle

    def mistakes(self) -> Tensor:
        """Return the rows of wrong predictions, those farthest from the truth first."""
        wrong = (self.predictions != self.labels).nonzero().squeeze(1)
        depth = (self.target_angle - self.predicted_angle)[wrong]
        return wrong[depth.argsort(descending=True, stable=True)]


@torch.no_grad()
def judge(head: Head, embeddings: Tensor, labels: Tensor) -> Judged:
    """Classify embeddings and measure their angles, without an N x C tensor where there are many classes.

    Args:
        head: In evaluation mode, of at least two classes.
        embeddings: (N, D).
        labels: (N,) int64 in [0, C); predictions do not see them.

    Raises:
        ValueError: If shapes do not fit, a label is outside [0, C), C < 2, or a value is NaN or infinite.
    """
    predictions, cosine = head.predict(embeddings)
    angles = target_angles(embeddings, labels, head.weight, sub_centers=head.sub_centers)
    target, other = torch.rad2deg(angles.target), torch.rad2deg(angles.nearest_other)
    predicted = torch.rad2deg(cosine.double().clamp(-1, 1).acos())
    return Judged(labels, predictions, target, predicted, angles.nearest_class, other)
