"""A head of one's own: what replaces the target cosine is all there is to write."""

from torch import Tensor

from arcface_pl.functional.checks import check_number
from arcface_pl.heads import AngularHead


class LinearAngleHead(AngularHead):
    """Replaces cos(theta) by 1 - 2 (theta + margin) / pi, a straight line in the angle.

    Args:
        embedding_dim: Width of the embeddings.
        num_classes: Number of classes.
        margin: Added to the target angle, in radians, in [0, pi).
        scale: Multiplies the logits.
    """

    def __init__(self, embedding_dim: int, num_classes: int, *, margin: float = 0.2, scale: float = 16.0) -> None:
        super().__init__(embedding_dim, num_classes, scale=scale)
        check_number("margin", margin, low=0, high=3.14)
        self.margin = margin

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        theta = sine.atan2(cosine)
        return 1 - 2 * (theta + self.margin) / 3.141592653589793
