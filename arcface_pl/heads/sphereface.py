"""SphereFace: a factor on the angle."""

from typing import Literal

from torch import Tensor

from arcface_pl.functional import sphereface_psi
from arcface_pl.functional.checks import check_number
from arcface_pl.heads.margin import MarginHead

__all__ = ["SphereFaceHead"]


class SphereFaceHead(MarginHead):
    r"""SphereFace on embeddings of length one.

    $$L_i = -\log \frac{e^{s \psi(\theta_{y_i})}}{e^{s \psi(\theta_{y_i})} + \sum_{j \ne y_i} e^{s \cos \theta_j}},
    \qquad \psi(\theta) = (-1)^k \cos(m \theta) - 2k, \quad k = \lfloor m \theta / \pi \rfloor$$

    The paper has m = 4 and, in the place of s, the embedding's own length, with a schedule that begins near plain
    softmax; ``margin_warmup_epochs`` serves for that here. The default factor is the one the ArcFace paper uses for
    SphereFace with a fixed scale.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        margin: m, a factor of the angle, at least 1, whole or not.
        scale: s, positive; or "adacos" for ``sqrt(2) * log(C - 1)``, which needs at least 3 classes.
        sub_centers: K, centers of each class, at least 1; a class's cosine is the largest over its centers.
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).
        margin_warmup_epochs: Epochs over which the factor grows linearly from 1; 0 begins with the whole margin.
        class_margins: "equal", or "frequency" for factors that are larger for rarer classes.

    Reference:
        Liu et al., SphereFace: Deep Hypersphere Embedding for Face Recognition (CVPR 2017).

    Example:
        >>> import torch
        >>> head = SphereFaceHead(2, 2, margin=2.0, scale=4.0)
        >>> head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> head(torch.tensor([[3.0, 4.0]]), torch.tensor([1])).detach()
        tensor([[2.4000, 1.1200]])
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float = 1.35,
        scale: float | Literal["adacos"] = 64.0,
        sub_centers: int = 1,
        label_smoothing: float = 0.0,
        margin_warmup_epochs: float = 0,
        class_margins: Literal["equal", "frequency"] = "equal",
    ) -> None:
        super().__init__(
            embedding_dim,
            num_classes,
            scale=scale,
            sub_centers=sub_centers,
            label_smoothing=label_smoothing,
            margin_warmup_epochs=margin_warmup_epochs,
            class_margins=class_margins,
        )
        check_number("margin", margin, low=1, high=1e3)
        self.margin = margin

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return cos(m * theta), falling on past pi."""
        return sphereface_psi(cosine, 1 + (self.margin - 1) * self.strength(labels), sine=sine)
