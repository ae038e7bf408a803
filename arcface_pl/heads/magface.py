"""MagFace: a margin that grows with the norm of the embedding, and a loss term that rewards long ones."""

import warnings
from typing import Any

import torch
from torch import Tensor

from arcface_pl.errors import expected
from arcface_pl.functional import arcface_psi
from arcface_pl.functional.checks import check_number
from arcface_pl.functional.precision import pair_dtype
from arcface_pl.heads.margin import MarginHead, check_angle


class MagFaceHead(MarginHead):
    r"""MagFace.

    $$L_i = -\log \frac{e^{s \psi(\theta_{y_i})}}{e^{s \psi(\theta_{y_i})} + \sum_{j \ne y_i} e^{s \cos \theta_j}}
    + \lambda_g \, g(a_i), \qquad \psi(\theta) = \cos(\theta + m(a_i))$$

    $$m(a) = \frac{u_m - l_m}{u_a - l_a} (a - l_a) + l_m, \qquad g(a) = \frac{1}{a} + \frac{a}{u_a^2}$$

    a is the norm of the embedding, clamped to [l_a, u_a]; outside, no gradient reaches the norm. Past ``pi - m`` psi
    keeps falling as ArcFace's does; the authors' public code has no margin past 90 degrees (``easy_margin``). It also
    has lambda_g = 20, below the bound that the paper derives for an optimal norm within [l_a, u_a]:

    $$\lambda_g \ge s \, \frac{u_m - l_m}{u_a - l_a} \, \frac{u_a^2 l_a^2}{u_a^2 - l_a^2}$$

    A lambda_g between 0 and this bound is warned of: the norms of hard samples would sink to l_a.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        min_margin: l_m, margin in radians of the shortest embeddings, in [0, pi).
        max_margin: u_m, margin in radians of the longest embeddings, in [0, pi), at least ``min_margin``.
        min_norm: l_a, above 0.
        max_norm: u_a, above ``min_norm``.
        norm_weight: lambda_g, at least 0; below ``s K (l_a u_a)^2 / (u_a^2 - l_a^2)``, K the slope of m(a), a warning.
        **kwargs: Options of `MarginHead`.

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
        **kwargs: Any,
    ) -> None:
        super().__init__(embedding_dim, num_classes, **kwargs)
        check_angle("min_margin", min_margin)
        check_angle("max_margin", max_margin)
        if max_margin < min_margin:
            raise ValueError(expected("max_margin", max_margin, f"at least min_margin, {min_margin}"))
        check_number("min_norm", min_norm, low=0, low_open=True)
        check_number("max_norm", max_norm, low=min_norm, low_open=True)
        check_number("norm_weight", norm_weight, low=0, high=1e6)
        self.min_margin = min_margin
        self.max_margin = max_margin
        self.min_norm = min_norm
        self.max_norm = max_norm
        self.norm_weight = norm_weight
        slope = (max_margin - min_margin) / (max_norm - min_norm)
        bound = self.first_scale * slope * (max_norm * min_norm) ** 2 / (max_norm**2 - min_norm**2)
        if 0 < norm_weight < bound:
            accepted = f"0, or at least {bound:.4g}, the paper's bound for these margins, norms and scale"
            warnings.warn(expected("norm_weight", norm_weight, accepted), stacklevel=2)

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
        """Return the norms clamped to [l_a, u_a], (B,), without a gradient outside."""
        norms = torch.linalg.vector_norm(embeddings, dim=1, dtype=pair_dtype(embeddings.device))
        held = norms.detach().clamp(self.min_norm, self.max_norm)
        return torch.where(norms == held, norms, held)
