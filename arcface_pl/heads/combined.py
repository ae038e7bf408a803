"""Combined margins: a factor and a margin on the angle, and a margin on the cosine."""

from typing import Any

from torch import Tensor

from arcface_pl.functional import combined_psi
from arcface_pl.functional.checks import check_number
from arcface_pl.heads.margin import MarginHead, check_angle


class CombinedMarginHead(MarginHead):
    r"""SphereFace's, ArcFace's and CosFace's margins together.

    $$L_i = -\log \frac{e^{s \psi(\theta_{y_i})}}{e^{s \psi(\theta_{y_i})} + \sum_{j \ne y_i} e^{s \cos \theta_j}},
    \qquad \psi(\theta) = \cos(m_1 \theta + m_2) - m_3$$

    Past ``m1 * theta + m2 = pi`` psi keeps falling as SphereFace's does, continuous with its slope: it is then
    ``(-1)^k cos(m1 * theta + m2) - 2k - m3`` with ``k = floor((m1 * theta + m2) / pi)``. The warm-up grows the margins
    from (1, 0, 0).

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        m1: Factor of the angle, above 0.
        m2: Margin on the angle, in radians, in [0, pi).
        m3: Margin on the cosine, in [0, 2).
        **kwargs: Options of `MarginHead`.

    Reference:
        Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition (CVPR 2019), equation 4.

    Example:
        >>> import torch
        >>> head = CombinedMarginHead(2, 2, m1=1.0, m2=0.5, m3=0.25, scale=4.0)
        >>> head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> head(torch.tensor([[3.0, 4.0]]), torch.tensor([1])).detach()
        tensor([[2.4000, 0.6576]])
    """

    def __init__(
        self, embedding_dim: int, num_classes: int, *, m1: float = 1.0, m2: float = 0.3, m3: float = 0.2, **kwargs: Any
    ) -> None:
        super().__init__(embedding_dim, num_classes, **kwargs)
        check_number("m1", m1, low=0, low_open=True, high=1e3)
        check_angle("m2", m2)
        check_number("m3", m3, low=0, high=2)
        self.m1 = m1
        self.m2 = m2
        self.m3 = m3

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return cos(m1 * theta + m2) - m3, which keeps falling past pi."""
        strength = self.strength(labels)
        return combined_psi(cosine, 1 + (self.m1 - 1) * strength, self.m2 * strength, self.m3 * strength, sine=sine)
