"""Heads on angles: logits are scaled cosines, and a margin changes the target's."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from arcface_pl.errors import expected
from arcface_pl.functional import similarity
from arcface_pl.functional.checks import check_choice, check_number
from arcface_pl.functional.chunked_terms import angular_terms
from arcface_pl.functional.loss import Reduction, loss_of_terms, reduce
from arcface_pl.functional.precision import compute_dtype
from arcface_pl.functional.problem import NonTarget, Reweighting
from arcface_pl.functional.process_group import Group
from arcface_pl.functional.scoring import HeadScores, LogitsOf, angular_scores
from arcface_pl.heads.base import Head

Scale = float | Literal["adacos", "adacos_dynamic", "learnable"]
_LOWEST_SCALE = 1e-3


class AngularHead(Head):
    r"""Head whose logits are scaled cosines, and whose loss puts ``psi`` in the place of the target cosine.

    A subclass implements ``psi``; logits, loss, scores and sharding follow from it.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        scale: s, positive; or, with at least 3 classes, one that is ``sqrt(2) * log(C - 1)`` throughout ("adacos") or
            at first ("adacos_dynamic" follows the batches, "learnable" is trained as ``exp(log_scale)``).
        **kwargs: Options of `Head`.

    Reference:
        Zhang et al., AdaCos: Adaptively Scaling Cosine Logits for Effectively Learning Deep Face Representations (CVPR
        2019), fixed and dynamic. Deng et al., Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web
        Faces (ECCV 2020).
    """

    def __init__(self, embedding_dim: int, num_classes: int, *, scale: Scale = 30.0, **kwargs: Any) -> None:
        super().__init__(embedding_dim, num_classes, **kwargs)
        self.scale = scale
        if isinstance(scale, str):
            check_choice("scale", scale, ("adacos", "adacos_dynamic", "learnable"))
            if num_classes < 3:
                raise ValueError(expected("scale", scale, f"a number where there are {num_classes} classes"))
            self.first_scale = math.sqrt(2) * math.log(num_classes - 1)
        else:
            check_number("scale", scale, low=0, low_open=True, high=1e6)
            self.first_scale = float(scale)
        first = torch.tensor(self.first_scale, dtype=torch.float32)
        self.log_scale: nn.Parameter | None
        self.register_parameter("log_scale", nn.Parameter(first.log()) if scale == "learnable" else None)
        self.dynamic_scale: Tensor | None
        self.register_buffer("dynamic_scale", first if scale == "adacos_dynamic" else None)

    @property
    def scale_value(self) -> float | Tensor:
        """The present s: a number, or a float32 scalar where it changes during the training."""
        if self.log_scale is not None:
            return self.log_scale.exp()
        return self.first_scale if self.dynamic_scale is None else self.dynamic_scale.clone()

    @torch.no_grad()
    def _adapt_scale(self, embeddings: Tensor, labels: Tensor) -> None:
        r"""Set AdaCos's dynamic scale from a batch of all devices, in training mode.

        $$s \leftarrow \frac{\log \frac{1}{B} \sum_i \sum_{j \ne y_i} e^{s \cos \theta_{ij}}}
        {\cos(\min(\pi / 4, \mathrm{median}_i \, \theta_{i y_i}))}$$
        """
        if self.dynamic_scale is None or not self.training:
            return
        weight, shard = self.loss_centers()
        non_target = NonTarget(self.scale_value, self.sub_centers, precision=self.non_target_precision)
        terms = angular_terms(embeddings, weight, labels, non_target, with_sum=False, shard=shard)
        everyone, pairs = Group(), torch.stack([terms.non_target, torch.atan2(terms.sine, terms.cosine)], dim=1)
        log_sums, theta = everyone.gather(pairs, everyone.sizes(labels)).unbind(dim=1)
        log_mean = log_sums.logsumexp(dim=0) - math.log(len(log_sums))
        # Cosines that are all far below 0 would make it negative
        scale = (log_mean / theta.median().clamp_max(math.pi / 4).cos()).clamp_min(_LOWEST_SCALE)
        follow(self.dynamic_scale, scale)

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return what replaces the cosine to the target class, (B,).

        Args:
            cosine: (B,) cos(theta) to the target class, float64.
            sine: (B,) sin(theta) to the target class, float64, exact near 0 and pi.
            embeddings: (B, D), for margins that depend on the norm.
            labels: (B,) integers, for margins that depend on the class.
        """
        raise NotImplementedError

    def forward(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute scale * cosine; with labels, scale * psi at the target (training and inspection only).

        Args:
            embeddings: (B, D) floating point.
            labels: (B,) integers in [0, C).

        Returns:
            (B, C), float32, or float64 where the embeddings or the centers are.

        Raises:
            ValueError: A wrong shape or dtype, or a label outside [0, C).
        """
        cosine = self.cosine(embeddings)
        if labels is None:
            return self.scale_value * cosine
        labels = self.checked(embeddings, labels)
        self._adapt_scale(embeddings, labels)
        scale = self.scale_value
        target = scale * self.psi(*self.target_angle(embeddings, labels), embeddings, labels)
        reweighting = self.reweighting(embeddings, labels)
        cosine = cosine if reweighting is None else reweighting.apply(cosine)
        return (scale * cosine).scatter(1, labels[:, None], target.to(cosine.dtype)[:, None])

    def reweighting(self, embeddings: Tensor, labels: Tensor) -> Reweighting | None:
        """Return how hard non-target classes are re-weighted, None for not at all (see CurricularFace).

        Args:
            embeddings: (B, D) floating point.
            labels: (B,) int64 in [0, C).
        """
        return None

    def penalty(self, embeddings: Tensor) -> Tensor | None:
        """Return what is added to each sample's loss, (B,), None for nothing (see MagFace).

        Args:
            embeddings: (B, D) floating point.
        """
        return None

    def target_angle(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin of the angle to the target class, (B,) each, float64, exact near 0 and pi.

        Args:
            embeddings: (B, D) floating point.
            labels: (B,) int64 in [0, C).
        """
        return similarity.target_cosine_sine(embeddings, self.centers(), labels, self.sub_centers)

    def loss(self, embeddings: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Compute softplus(S - scale * psi), S the log-sum-exp of the non-target logits, see `Head.loss`."""
        labels = self.checked(embeddings, labels)
        self._adapt_scale(embeddings, labels)
        reweighting = self.reweighting(embeddings, labels)
        weight, shard = self.loss_centers()
        scale, with_sum = self.scale_value, self.label_smoothing > 0
        non_target = NonTarget(scale, self.sub_centers, precision=self.non_target_precision)
        terms = angular_terms(embeddings, weight, labels, non_target, reweighting, with_sum=with_sum, shard=shard)
        losses = loss_of_terms(
            terms,
            lambda cosine, sine: self.psi(cosine, sine, embeddings, labels),
            scale=scale,
            label_smoothing=self.label_smoothing,
            num_classes=self.num_classes,
        )
        penalty = self.penalty(embeddings)
        losses = losses if penalty is None else losses + penalty
        return reduce(self.weigh(losses, labels), reduction).to(compute_dtype(embeddings, self.weight))

    def chunk_logits(self, embeddings: Tensor) -> LogitsOf:
        """Return what scales the cosines of a chunk, see `Head.chunk_logits`."""
        return lambda _, cosine: self.scale_value * cosine

    def _score_in_chunks(self, embeddings: Tensor, labels: Tensor) -> HeadScores:
        psi = self.psi(*self.target_angle(embeddings, labels), embeddings, labels)
        weight, shard = self.loss_centers()
        scores = angular_scores(
            embeddings,
            weight,
            labels,
            psi,
            scale=self.scale_value,
            sub_centers=self.sub_centers,
            label_smoothing=self.label_smoothing,
            reweighting=self.reweighting(embeddings, labels),
            shard=shard,
        )
        penalty = self.penalty(embeddings)
        losses = scores.loss if penalty is None else scores.loss + penalty
        return scores._replace(loss=self.weigh(losses, labels).to(compute_dtype(embeddings, self.weight)))

    def extra_repr(self) -> str:
        """Name the sizes and the scale in ``print(head)``."""
        return f"{super().extra_repr()}, scale={self.scale!r}"


@torch.no_grad()
def follow(average: Tensor, batch: Tensor, momentum: float = 1.0) -> None:
    """Move a running average towards the value of a batch, unless that is NaN or infinite: it would stay so for good.

    Args:
        average: Buffer, changed in place.
        batch: Scalar.
        momentum: Weight of the batch, in (0, 1].
    """
    batch = batch.to(average.dtype)
    average.lerp_(torch.where(batch.isfinite(), batch, average), momentum)
