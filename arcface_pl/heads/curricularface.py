"""CurricularFace: hard classes weigh more the further the training has come."""

from typing import Literal

import torch
from torch import Tensor
from torch import distributed as dist

from arcface_pl.functional import arcface_psi
from arcface_pl.functional.checks import check_number
from arcface_pl.functional.terms import Hard
from arcface_pl.heads.margin import MarginHead, check_angle

__all__ = ["CurricularFaceHead"]


class CurricularFaceHead(MarginHead):
    r"""CurricularFace.

    $$L_i = -\log \frac{e^{s \psi(\theta_{y_i})}}{e^{s \psi(\theta_{y_i})} + \sum_{j \ne y_i} e^{s N(t, \cos\theta_j)}},
    \qquad \psi(\theta) = \cos(\theta + m)$$

    $$N(t, c) = c \text{ for } c \le \psi(\theta_{y_i}), \qquad c \, (t + c) \text{ beyond}$$

    t is a running average of the cosine to the own class: a buffer, the same on all devices, that moves only in
    training mode, with every call that is given labels. Past ``pi - m`` psi falls on as ArcFace's does.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        margin: m, in radians, in [0, pi).
        momentum: Share of a batch in the running average t, in (0, 1].
        scale: s, positive; or "adacos" for ``sqrt(2) * log(C - 1)``, which needs at least 3 classes.
        sub_centers: K, centers of each class, at least 1; a class's cosine is the largest over its centers.
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).
        margin_warmup_epochs: Epochs over which the margin grows linearly from 0; 0 begins with the whole margin.
        class_margins: "equal", or "frequency" for margins that are larger for rarer classes.

    Reference:
        Huang et al., CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition (CVPR 2020).
    """

    t: Tensor

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float = 0.5,
        momentum: float = 0.01,
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
        check_angle("margin", margin)
        check_number("momentum", momentum, low=0, low_open=True, high=1 + 1e-12)
        self.margin = margin
        self.momentum = momentum
        self.register_buffer("t", torch.tensor(0.0))

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return cos(theta + m), extended past pi - m."""
        return arcface_psi(cosine, self.margin * self.strength(labels), sine=sine)

    @torch.no_grad()
    def reweighting(self, embeddings: Tensor, labels: Tensor) -> Hard:
        """Return the re-weighting of classes whose cosine is above psi; moves t in training mode."""
        pair = self.own_angle(embeddings, labels)
        self._follow(pair[0])
        return Hard(self.psi(*pair, embeddings, labels), self.t.clone())

    @torch.no_grad()
    def _follow(self, cosine: Tensor) -> None:
        """Move t towards the batch's mean cosine to the own class, taken over all devices."""
        if not self.training:
            return
        moments = torch.stack([torch.ones_like(cosine), cosine]).sum(dim=1)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(moments)
        self.t.lerp_((moments[1] / moments[0]).to(self.t.dtype), self.momentum)
