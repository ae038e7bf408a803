"""CosFace: a margin subtracted from the cosine."""

from typing import Any

from torch import Tensor

from arcface_pl.functional import cosface_psi
from arcface_pl.functional.checks import check_number
from arcface_pl.heads.margin import MarginHead


class CosFaceHead(MarginHead):
    r"""CosFace.

    $$L_i = -\log \frac{e^{s \psi(\theta_{y_i})}}{e^{s \psi(\theta_{y_i})} + \sum_{j \ne y_i} e^{s \cos \theta_j}},
    \qquad \psi(\theta) = \cos\theta - m$$

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        margin: m, a difference of cosines, in [0, 2).
        **kwargs: Options of `MarginHead`.

    Reference:
        Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition (CVPR 2018).

    Example:
        >>> import torch
        >>> head = CosFaceHead(2, 2, margin=0.25, scale=4.0)
        >>> head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> head(torch.tensor([[3.0, 4.0]]), torch.tensor([1])).detach()
        tensor([[2.4000, 2.2000]])
    """

    def __init__(self, embedding_dim: int, num_classes: int, *, margin: float = 0.35, **kwargs: Any) -> None:
        super().__init__(embedding_dim, num_classes, **kwargs)
        check_number("margin", margin, low=0, high=2)
        self.margin = margin

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return cos(theta) - m."""
        return cosface_psi(cosine, self.margin * self.strength(labels))
