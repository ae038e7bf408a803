"""CurricularFace: hard classes weigh more as the training progresses."""

from typing import Any

import torch
from torch import Tensor

from arcface_pl.errors import expected
from arcface_pl.functional import arcface_psi
from arcface_pl.functional.checks import check_number
from arcface_pl.functional.problem import Reweighting
from arcface_pl.functional.process_group import Group
from arcface_pl.heads.angular import follow
from arcface_pl.heads.margin import MarginHead, check_angle


class CurricularFaceHead(MarginHead):
    r"""CurricularFace.

    $$L_i = -\log \frac{e^{s \psi(\theta_{y_i})}}{e^{s \psi(\theta_{y_i})} + \sum_{j \ne y_i} e^{s N(t, \cos\theta_j)}},
    \qquad \psi(\theta) = \cos(\theta + m)$$

    $$N(t, c) = c \text{ for } c \le \psi(\theta_{y_i}), \qquad c \, (t + c) \text{ beyond}$$

    t is a running average of the target cosine: a buffer, in float32 and the same on all devices, updated in training
    mode by each call with labels. Past ``pi - m`` psi keeps falling as ArcFace's does. The scale cannot be learnable.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        margin: m, in radians, in [0, pi).
        momentum: Weight of a batch in the running average t, in (0, 1].
        **kwargs: Options of `MarginHead`.

    Reference:
        Huang et al., CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition (CVPR 2020).
    """

    t: Tensor

    def __init__(
        self, embedding_dim: int, num_classes: int, *, margin: float = 0.5, momentum: float = 0.01, **kwargs: Any
    ) -> None:
        super().__init__(embedding_dim, num_classes, **kwargs)
        if self.log_scale is not None:
            raise ValueError(expected("scale", self.scale, "a number, 'adacos' or 'adacos_dynamic' for CurricularFace"))
        check_angle("margin", margin)
        check_number("momentum", momentum, low=0, low_open=True, high=1, high_open=False)
        self.margin = margin
        self.momentum = momentum
        self.register_buffer("t", torch.tensor(0.0, dtype=torch.float32))

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return cos(theta + m), extended past pi - m."""
        return arcface_psi(cosine, self.margin * self.strength(labels), sine=sine)

    @torch.no_grad()
    def reweighting(self, embeddings: Tensor, labels: Tensor) -> Reweighting:
        """Return the re-weighting of classes whose cosine is above psi; updates t in training mode."""
        pair = self.target_angle(embeddings, labels)
        self._follow(pair[0])
        return Reweighting(self.psi(*pair, embeddings, labels), self.t.clone())

    @torch.no_grad()
    def _follow(self, cosine: Tensor) -> None:
        """Move t towards the mean target cosine of the batch over all devices."""
        if not self.training:
            return
        count, total = Group().sum(torch.stack([torch.ones_like(cosine), cosine]).sum(dim=1))
        follow(self.t, total / count, self.momentum)
