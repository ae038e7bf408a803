"""ElasticFace: a random margin for each sample in each batch."""

from typing import Any, Literal

import torch
from torch import Tensor

from arcface_pl.functional import arcface_psi, cosface_psi
from arcface_pl.functional.checks import check_choice, check_number
from arcface_pl.functional.eager import eager
from arcface_pl.functional.process_group import Group
from arcface_pl.heads.margin import MarginHead, check_angle
from arcface_pl.seeding import derive_seed


class ElasticFaceHead(MarginHead):
    r"""ElasticFace.

    $$\psi(\theta) = \cos(\theta + E(m, \sigma)) \text{ ("arc")}, \qquad
    \psi(\theta) = \cos\theta - E(m, \sigma) \text{ ("cos")}$$

    E is drawn from a normal distribution for each sample. The draw is a function of the seed, step and batch given to
    ``set_progress`` and of the rank; outside training mode the margin is m. A drawn angle is clamped to [0, pi], and
    past ``pi`` psi keeps falling as ArcFace's does.

    ElasticFace+ ("arc+", "cos+") gives the larger of a batch's margins to the samples that are farther from their
    class, as the paper says; its public code reads the order of the samples as their rank, which gives them at random.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        margin: m, in radians, in [0, pi); a difference of cosines, in [0, 2), for "cos". The paper has 0.5 for "arc"
            and 0.35 for "cos".
        sigma: Standard deviation of the margin, at least 0. The paper has 0.0175 for "arc+" and 0.025 for "cos+".
        variant: "arc" for ArcFace's margin, "cos" for CosFace's, "arc+" and "cos+" for ElasticFace+.
        **kwargs: Options of `MarginHead`.

    Reference:
        Boutros et al., ElasticFace: Elastic Margin Loss for Deep Face Recognition (CVPR Workshops 2022).
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float = 0.5,
        sigma: float = 0.05,
        variant: Literal["arc", "cos", "arc+", "cos+"] = "arc",
        **kwargs: Any,
    ) -> None:
        super().__init__(embedding_dim, num_classes, **kwargs)
        check_choice("variant", variant, ("arc", "cos", "arc+", "cos+"))
        if variant.startswith("arc"):
            check_angle("margin", margin)
        else:
            check_number("margin", margin, low=0, high=2)
        check_number("sigma", sigma, low=0)
        self.margin = margin
        self.sigma = sigma
        self.variant = variant
        self._seed, self._step, self._batch = 0, 0, 0

    def set_progress(self, *, epoch: float, step: int, seed: int, batch: int = 0) -> None:
        """Choose the draw of the margins, see `Head.set_progress`."""
        super().set_progress(epoch=epoch, step=step, seed=seed, batch=batch)
        self._seed, self._step, self._batch = seed, step, batch

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the cosine with a margin drawn for each sample."""
        margin: float | Tensor = self.margin
        if self.training:
            drawn = self._draw(cosine)
            if self.variant.endswith("+"):
                drawn = torch.empty_like(drawn).scatter_(
                    0, cosine.detach().argsort(stable=True), drawn.sort(descending=True).values
                )
            margin = margin + self.sigma * drawn
        margin = margin * self.strength(labels)
        if self.variant.startswith("cos"):
            return cosface_psi(cosine, margin)
        return arcface_psi(cosine, margin.clamp(0, torch.pi) if isinstance(margin, Tensor) else margin, sine=sine)

    @eager
    def _draw(self, like: Tensor) -> Tensor:
        """Return a standard normal number per sample, the same on every kind of device."""
        seed = derive_seed(self._seed, "elasticface", self._step, self._batch, Group().rank)
        drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        return drawn.to(like, non_blocking=True)
