"""AdaFace: a margin that depends on the quality of a sample, read from the norm of its embedding."""

from typing import Any

import torch
from torch import Tensor

from arcface_pl.functional import adaface_psi
from arcface_pl.functional.checks import check_number
from arcface_pl.functional.process_group import Group
from arcface_pl.heads.angular import follow
from arcface_pl.heads.margin import MarginHead, check_angle


class AdaFaceHead(MarginHead):
    r"""AdaFace.

    $$\psi(\theta) = \cos(\theta - m z) - (m + m z), \qquad
    z = \mathrm{clip}\left(h \frac{\lVert x \rVert - \mu}{\sigma + \epsilon}, -1, 1\right)$$

    mu and sigma are running averages of the mean and the standard deviation of the norms in a batch: buffers, in
    float32 and the same on all devices, updated in training mode by each call with labels. No gradient flows through z.
    An angle below 0 counts as 0, and past pi psi keeps falling as ArcFace's does.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        margin: m, in radians and in cosines alike, in [0, pi).
        h: Fraction of the margin that one standard deviation of the norm moves, above 0.
        momentum: Weight of a batch in the running averages, in (0, 1].
        **kwargs: Options of `MarginHead`.

    Reference:
        Kim et al., AdaFace: Quality Adaptive Margin for Face Recognition (CVPR 2022).
    """

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float = 0.4,
        h: float = 0.333,
        momentum: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(embedding_dim, num_classes, **kwargs)
        check_angle("margin", margin)
        check_number("h", h, low=0, low_open=True)
        check_number("momentum", momentum, low=0, low_open=True, high=1, high_open=False)
        self.margin = margin
        self.h = h
        self.momentum = momentum
        # The paper's code starts from these
        self.register_buffer("norm_mean", torch.tensor(20.0, dtype=torch.float32))
        self.register_buffer("norm_std", torch.tensor(100.0, dtype=torch.float32))

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return cos(theta - m z) - (m + m z)."""
        # Bounds of the norm and epsilon of its deviation as in the paper's code
        norms = torch.linalg.vector_norm(embeddings.detach(), dim=1, dtype=cosine.dtype).clamp(1e-3, 100)
        if self.training:
            self._follow(norms)
        quality = (self.h * (norms - self.norm_mean) / (self.norm_std + 1e-3)).clamp(-1, 1)
        return adaface_psi(cosine, quality, self.margin * self.strength(labels), sine=sine)

    @torch.no_grad()
    def _follow(self, norms: Tensor) -> None:
        """Move the running mean and deviation towards those of the batch over all devices."""
        moments = torch.stack([torch.ones_like(norms), norms, norms.square()]).sum(dim=1)
        count, total, squares = Group().sum(moments)
        mean = total / count
        # A single sample has no deviation and leaves the running one alone
        variance = (squares - total * mean).clamp_min(0) / (count - 1).clamp_min(1)
        deviation = torch.where(count > 1, variance.sqrt(), self.norm_std)
        follow(self.norm_mean, mean, self.momentum)
        follow(self.norm_std, deviation, self.momentum)
