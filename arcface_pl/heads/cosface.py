"""CosFace: a margin subtracted from the cosine."""

from typing import Literal

from torch import Tensor

from arcface_pl.functional import cosface_psi
from arcface_pl.functional.checks import check_number
from arcface_pl.heads.margin import MarginHead

__all__ = ["CosFaceHead"]


class CosFaceHead(MarginHead):
    r"""CosFace.

    $$L_i = -\log \frac{e^{s \psi(\theta_{y_i})}}{e^{s \psi(\theta_{y_i})} + \sum_{j \ne y_i} e^{s \cos \theta_j}},
    \qquad \psi(\theta) = \cos\theta - m$$

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        margin: m, a difference of cosines, in [0, 2).
        scale: s, positive; or "adacos" for ``sqrt(2) * log(C - 1)``, which needs at least 3 classes.
        sub_centers: K, centers of each class, at least 1; a class's cosine is the largest over its centers.
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).
        margin_warmup_epochs: Epochs over which the margin grows linearly from 0; 0 begins with the whole margin.
        class_margins: "equal", or "frequency" for margins that are larger for rarer classes.

    Reference:
        Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition (CVPR 2018).

    Example:
        >>> import torch
        >>> head = CosFaceHead(2, 2, margin=0.25, scale=4.0)
        >>> head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> head(torch.tensor([[3.0, 4.0]]), torch.tensor([1])).detach()
        tensor([[2.4000, 2.2000]])
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float = 0.35,
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
        check_number("margin", margin, low=0, high=2)
        self.margin = margin

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return cos(theta) - m."""
        return cosface_psi(cosine, self.margin * self.strength(labels))
