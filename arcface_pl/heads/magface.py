"""MagFace: the longer an embedding, the larger its margin, and a term that asks for length."""

from typing import Literal

import torch
from torch import Tensor

from arcface_pl.functional import arcface_psi
from arcface_pl.functional.checks import check_number
from arcface_pl.functional.precision import pair_dtype
from arcface_pl.heads.margin import MarginHead, check_angle

__all__ = ["MagFaceHead"]


class MagFaceHead(MarginHead):
    r"""MagFace.

    $$L_i = -\log \frac{e^{s \psi(\theta_{y_i})}}{e^{s \psi(\theta_{y_i})} + \sum_{j \ne y_i} e^{s \cos \theta_j}}
    + \lambda_g \, g(a_i), \qquad \psi(\theta) = \cos(\theta + m(a_i))$$

    $$m(a) = \frac{u_m - l_m}{u_a - l_a} (a - l_a) + l_m, \qquad g(a) = \frac{1}{a} + \frac{a}{u_a^2}$$

    a is the embedding's norm, held within [l_a, u_a], outside of which no gradient reaches the norm. Past ``pi - m``
    psi falls on as ArcFace's does.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        min_margin: l_m, the margin in radians of the shortest embeddings, in [0, pi).
        max_margin: u_m, the margin in radians of the longest ones, in [0, pi), at least ``min_margin``.
        min_norm: l_a, above 0.
        max_norm: u_a, above ``min_norm``.
        norm_weight: lambda_g, at least 0.
        scale: s, positive; or "adacos" for ``sqrt(2) * log(C - 1)``, which needs at least 3 classes.
        sub_centers: K, centers of each class, at least 1; a class's cosine is the largest over its centers.
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).
        margin_warmup_epochs: Epochs over which the margin grows linearly from 0; 0 begins with the whole margin.
        class_margins: "equal", or "frequency" for margins that are larger for rarer classes.

    Reference:
        Meng et al., MagFace: A Universal Representation for Face Recognition and Quality Assessment (CVPR 2021).
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        min_margin: float = 0.45,
        max_margin: float = 0.8,
        min_norm: float = 10.0,
        max_norm: float = 110.0,
        norm_weight: float = 35.0,
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
        check_angle("min_margin", min_margin)
        check_angle("max_margin", max_margin)
        if max_margin < min_margin:
            raise ValueError(f"max_margin must be at least min_margin, {min_margin}; got {max_margin}")
        check_number("min_norm", min_norm, low=0, low_open=True)
        check_number("max_norm", max_norm, low=min_norm, low_open=True)
        check_number("norm_weight", norm_weight, low=0, high=1e6)
        self.min_margin = min_margin
        self.max_margin = max_margin
        self.min_norm = min_norm
        self.max_norm = max_norm
        self.norm_weight = norm_weight

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return cos(theta + m(a)), extended past pi - m."""
        slope = (self.max_margin - self.min_margin) / (self.max_norm - self.min_norm)
        margin = self.min_margin + slope * (self._norms(embeddings) - self.min_norm)
        return arcface_psi(cosine, margin * self.strength(labels), sine=sine)

    def penalty(self, embeddings: Tensor) -> Tensor:
        """Return lambda_g * g(a), (B,)."""
        norms = self._norms(embeddings)
        return self.norm_weight * (1 / norms + norms / self.max_norm**2)

    def _norms(self, embeddings: Tensor) -> Tensor:
        """Return the norms held within [l_a, u_a], (B,), without a gradient outside."""
        norms = torch.linalg.vector_norm(embeddings, dim=1, dtype=pair_dtype(embeddings.device))
        held = norms.detach().clamp(self.min_norm, self.max_norm)
        return torch.where(norms == held, norms, held)
