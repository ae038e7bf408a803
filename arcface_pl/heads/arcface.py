"""ArcFace: a margin added to the angle."""

from typing import Any, Literal

from torch import Tensor

from arcface_pl.functional import arcface_psi
from arcface_pl.functional.checks import check_choice
from arcface_pl.heads.angular import Scale
from arcface_pl.heads.margin import MarginHead, check_angle


class ArcFaceHead(MarginHead):
    r"""ArcFace.

    $$L_i = -\log \frac{e^{s \psi(\theta_{y_i})}}{e^{s \psi(\theta_{y_i})} + \sum_{j \ne y_i} e^{s \cos \theta_j}},
    \qquad \psi(\theta) = \cos(\theta + m)$$

    Past ``pi - m``, where that cosine would rise again, psi keeps falling to ``cos(m) - 2``.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        margin: m, in radians, in [0, pi).
        scale: s, positive; or, with at least 3 classes, one that is ``sqrt(2) * log(C - 1)`` throughout ("adacos") or
            at first ("adacos_dynamic" follows the batches, "learnable" is trained as ``exp(log_scale)``).
        extension: "monotone", or "none" for the unguarded cos(theta + m), which rewards embeddings opposite to their
            class.
        **kwargs: Further options of `MarginHead`.

    Reference:
        Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition (CVPR 2019), equation 3.

    Example:
        >>> import torch
        >>> head = ArcFaceHead(2, 2, scale=4.0)
        >>> head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> head(torch.tensor([[3.0, 4.0]])).detach()
        tensor([[2.4000, 3.2000]])
        >>> head(torch.tensor([[3.0, 4.0]]), torch.tensor([1])).detach()
        tensor([[2.4000, 1.6576]])
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float = 0.5,
        scale: Scale = 30.0,
        extension: Literal["monotone", "none"] = "monotone",
        **kwargs: Any,
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale=scale, **kwargs)
        check_angle("margin", margin)
        check_choice("extension", extension, ("monotone", "none"))
        self.margin = margin
        self.extension = extension

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return cos(theta + m), extended past pi - m."""
        return arcface_psi(cosine, self.margin * self.strength(labels), sine=sine, extension=self.extension)
