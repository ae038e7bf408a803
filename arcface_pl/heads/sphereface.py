"""SphereFace: a factor on the angle."""

from typing import Any

from torch import Tensor

from arcface_pl.functional import sphereface_psi
from arcface_pl.functional.checks import check_number
from arcface_pl.heads.margin import MarginHead


class SphereFaceHead(MarginHead):
    r"""SphereFace on embeddings of length one.

    $$L_i = -\log \frac{e^{s \psi(\theta_{y_i})}}{e^{s \psi(\theta_{y_i})} + \sum_{j \ne y_i} e^{s \cos \theta_j}},
    \qquad \psi(\theta) = (-1)^k \cos(m \theta) - 2k, \quad k = \lfloor m \theta / \pi \rfloor$$

    The paper has m = 4, the embedding's length in the place of s, and a schedule that starts near plain softmax; here
    ``margin_warmup_epochs`` does that, growing the factor from 1. The default factor is the one that the ArcFace paper
    uses for SphereFace with a fixed scale.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        margin: m, a factor of the angle, at least 1, whole or not.
        **kwargs: Options of `MarginHead`.

    Reference:
        Liu et al., SphereFace: Deep Hypersphere Embedding for Face Recognition (CVPR 2017).

    Example:
        >>> import torch
        >>> head = SphereFaceHead(2, 2, margin=2.0, scale=4.0)
        >>> head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> head(torch.tensor([[3.0, 4.0]]), torch.tensor([1])).detach()
        tensor([[2.4000, 1.1200]])
    """

    def __init__(self, embedding_dim: int, num_classes: int, *, margin: float = 1.35, **kwargs: Any) -> None:
        super().__init__(embedding_dim, num_classes, **kwargs)
        check_number("margin", margin, low=1, high=1e3)
        self.margin = margin

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return cos(m * theta), which keeps falling past pi."""
        return sphereface_psi(cosine, 1 + (self.margin - 1) * self.strength(labels), sine=sine)
