"""What all heads share: class centers, the three calls and the scale."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from arcface_pl.functional import similarity
from arcface_pl.functional.checks import check_batch, check_choice, check_count, check_embeddings, check_number
from arcface_pl.functional.loss import Reduction, loss_of_terms, reduce
from arcface_pl.functional.precision import compute_dtype
from arcface_pl.functional.scoring import HeadScores, angular_scores, predict
from arcface_pl.functional.terms import WHOLE_CELLS, AngularTerms, Hard, Others, angular_terms

__all__ = ["AngularHead", "Head", "HeadScores"]


class Head(nn.Module):
    """Class centers, and what turns embeddings into logits and a loss.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        sub_centers: K, centers of each class, at least 1.
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).
    """

    check_labels: bool
    """Whether calls read the labels' values. The trainer's loop, whose data was checked once, sets it to False."""

    def __init__(
        self, embedding_dim: int, num_classes: int, *, sub_centers: int = 1, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        check_count("embedding_dim", embedding_dim, low=1)
        check_count("num_classes", num_classes, low=1)
        check_count("sub_centers", sub_centers, low=1)
        check_number("label_smoothing", label_smoothing, low=0, high=1)
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self.sub_centers = sub_centers
        self.label_smoothing = label_smoothing
        self.check_labels = True
        self.weight = nn.Parameter(torch.empty(num_classes * sub_centers, embedding_dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute logits: without labels the only path to a prediction, with labels the margin on the own class.

        Args:
            embeddings: (B, D) floating point.
            labels: (B,) integers in [0, C), for training and inspection only.

        Returns:
            (B, C) logits, float32, or float64 where the embeddings or the centers are.

        Raises:
            ValueError: A wrong shape or dtype, or a label outside [0, C).
        """
        raise NotImplementedError

    def loss(self, embeddings: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Compute the training loss without making a batch x classes tensor when there are many classes.

        Args:
            embeddings: (B, D) floating point, B >= 1.
            labels: (B,) integers in [0, C).
            reduction: "mean", "sum" or "none".

        Returns:
            A scalar, or (B,) for "none".

        Raises:
            ValueError: A wrong shape or dtype, an empty batch, or a label outside [0, C).
        """
        raise NotImplementedError

    def cosine(self, embeddings: Tensor) -> Tensor:
        """Compute the cosine between embeddings and classes, the largest over a class's centers.

        Args:
            embeddings: (B, D) floating point.

        Returns:
            (B, C) in [-1, 1].

        Raises:
            ValueError: A wrong shape or dtype.
        """
        check_embeddings(embeddings, self.weight)
        cosine = similarity.cosine_similarity_matrix(embeddings, self.centers())
        return cosine if self.sub_centers == 1 else cosine.unflatten(1, (-1, self.sub_centers)).amax(dim=2)

    @torch.no_grad()
    def predict(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Predict a class for each embedding.

        The package's heads take many classes in chunks, without a batch x classes tensor.

        Args:
            embeddings: (B, D) floating point.

        Returns:
            The class with the largest logit, (B,) int64, of equal ones the first, and the cosine to it, (B,).

        Raises:
            ValueError: A wrong shape or dtype.
        """
        predictions = self(embeddings).argmax(dim=1)
        return predictions, self.cosine(embeddings).gather(1, predictions[:, None]).squeeze(1)

    @torch.no_grad()
    def score(self, embeddings: Tensor, labels: Tensor) -> HeadScores:
        """Score a labelled batch: predictions, cosines and losses, without gradients.

        The package's heads take many classes in one pass over chunks, without a batch x classes tensor.

        Args:
            embeddings: (B, D) floating point, B >= 1.
            labels: (B,) integers in [0, C).

        Raises:
            ValueError: A wrong shape or dtype, an empty batch, or a label outside [0, C).
        """
        labels = self.checked(embeddings, labels)
        cosine = self.cosine(embeddings)
        predictions = self(embeddings).argmax(dim=1)
        column = labels[:, None]
        return HeadScores(
            predictions,
            cosine.gather(1, predictions[:, None]).squeeze(1),
            cosine.gather(1, column).squeeze(1),
            cosine.scatter(1, column, -math.inf).amax(dim=1),
            self(embeddings, labels).argmax(dim=1),
            self.loss(embeddings, labels, reduction="none"),
        )

    def checked(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the labels as int64.

        Raises:
            ValueError: A wrong shape or dtype, an empty batch, or a label outside [0, C).
        """
        check_embeddings(embeddings, self.weight)
        return check_batch(embeddings, labels, self.num_classes, values=self.check_labels)

    def scores_in_chunks(self, embeddings: Tensor, known: type["Head"]) -> bool:
        """Return whether to score in chunks: many classes, and no method that matters overridden since ``known``."""
        if embeddings.shape[0] * self.num_classes * self.sub_centers <= WHOLE_CELLS:
            return False
        return all(getattr(type(self), name) is getattr(known, name) for name in ("forward", "loss", "cosine"))

    def centers(self) -> Tensor:
        """Return the centers of all classes, (C * K, D)."""
        return self.weight

    def set_progress(self, *, epoch: float, step: int, seed: int) -> None:
        """Say where the training is, before each step: a margin that changes is a function of this alone.

        Args:
            epoch: Epochs done, with the part of the running one.
            step: Optimiser steps done.
            seed: The run's seed.
        """

    def set_class_counts(self, counts: Tensor) -> None:
        """Say how many training images each class has, for heads whose margins depend on it.

        Args:
            counts: (C,) images of each class.
        """

    def extra_repr(self) -> str:
        """Name the sizes in ``print(head)``."""
        return f"embedding_dim={self.embedding_dim}, num_classes={self.num_classes}, sub_centers={self.sub_centers}"


class AngularHead(Head):
    r"""Head whose logits are scaled cosines, and whose loss puts ``psi`` in the place of the own cosine.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        scale: s, positive; or "adacos" for ``sqrt(2) * log(C - 1)``, which needs at least 3 classes.
        sub_centers: K, centers of each class, at least 1; a class's cosine is the largest over its centers.
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).

    Reference:
        Zhang et al., AdaCos: Adaptively Scaling Cosine Logits for Effectively Learning Deep Face Representations (CVPR
        2019), the fixed variant. Deng et al., Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web
        Faces (ECCV 2020).
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        scale: float | Literal["adacos"] = 30.0,
        sub_centers: int = 1,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(embedding_dim, num_classes, sub_centers=sub_centers, label_smoothing=label_smoothing)
        self.scale = scale
        if isinstance(scale, str):
            check_choice("scale", scale, ("adacos",))
            if num_classes < 3:
                raise ValueError(f"scale='adacos' needs num_classes of at least 3; got {num_classes}: give a number")
            self.scale_value = math.sqrt(2) * math.log(num_classes - 1)
        else:
            check_number("scale", scale, low=0, low_open=True, high=1e6)
            self.scale_value = float(scale)

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return what replaces the cosine to the own class; called once by each call that is given labels.

        Args:
            cosine: (B,) cos(theta) to the own class, float64.
            sine: (B,) sin(theta) to the own class, float64.
            embeddings: (B, D), for margins that depend on the norm.
            labels: (B,) integers, for margins that depend on the class.
        """
        raise NotImplementedError

    def forward(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute scale * cosine; with labels, scale * psi at the own class (training and inspection only).

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
        own = self.scale_value * self.psi(*self.own_angle(embeddings, labels), embeddings, labels)
        hard = self.reweighting(embeddings, labels)
        if hard is not None:
            is_hard = cosine > hard.threshold.to(cosine.dtype)[:, None]
            cosine = torch.where(is_hard, cosine * (hard.t.to(cosine.dtype) + cosine), cosine)
        return (self.scale_value * cosine).scatter(1, labels[:, None], own.to(cosine.dtype)[:, None])

    def reweighting(self, embeddings: Tensor, labels: Tensor) -> Hard | None:
        """Return how hard non-target classes are re-weighted, or None where they are not (see CurricularFace).

        Args:
            embeddings: (B, D) floating point.
            labels: (B,) int64 in [0, C).
        """
        return None

    def penalty(self, embeddings: Tensor) -> Tensor | None:
        """Return what is added to each sample's loss, (B,), or None where nothing is (see MagFace).

        Args:
            embeddings: (B, D) floating point.
        """
        return None

    def own_angle(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin of the angle to the own class, (B,) each, float64, exact near 0 and pi.

        Args:
            embeddings: (B, D) floating point.
            labels: (B,) int64 in [0, C).
        """
        return similarity.own_cosine_sine(embeddings, self.centers(), labels, self.sub_centers)

    def loss(self, embeddings: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Compute softplus(S - scale * psi), S the log-sum-exp of the other classes' logits.

        Args:
            embeddings: (B, D) floating point, B >= 1.
            labels: (B,) integers in [0, C).
            reduction: "mean", "sum" or "none".

        Returns:
            A scalar, or (B,) for "none".

        Raises:
            ValueError: A wrong shape or dtype, an empty batch, or a label outside [0, C).
        """
        labels = self.checked(embeddings, labels)
        terms = self.terms(embeddings, labels, self.reweighting(embeddings, labels))
        losses = loss_of_terms(
            terms,
            lambda cosine, sine: self.psi(cosine, sine, embeddings, labels),
            scale=self.scale_value,
            label_smoothing=self.label_smoothing,
            num_classes=self.num_classes,
        )
        penalty = self.penalty(embeddings)
        losses = losses if penalty is None else losses + penalty
        return reduce(losses, reduction).to(compute_dtype(embeddings, self.weight))

    @torch.no_grad()
    def predict(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Predict a class for each embedding, see `Head.predict`."""
        if not self.scores_in_chunks(embeddings, AngularHead):
            return super().predict(embeddings)
        check_embeddings(embeddings, self.weight)
        return predict(
            embeddings,
            self.centers(),
            lambda _, cosine: self.scale_value * cosine,
            sub_centers=self.sub_centers,
        )

    @torch.no_grad()
    def score(self, embeddings: Tensor, labels: Tensor) -> HeadScores:
        """Score a labelled batch, see `Head.score`."""
        if not self.scores_in_chunks(embeddings, AngularHead):
            return super().score(embeddings, labels)
        labels = self.checked(embeddings, labels)
        psi = self.psi(*self.own_angle(embeddings, labels), embeddings, labels)
        scores = angular_scores(
            embeddings,
            self.centers(),
            labels,
            psi,
            scale=self.scale_value,
            sub_centers=self.sub_centers,
            label_smoothing=self.label_smoothing,
            hard=self.reweighting(embeddings, labels),
        )
        penalty = self.penalty(embeddings)
        losses = scores.loss if penalty is None else scores.loss + penalty
        return scores._replace(loss=losses.to(compute_dtype(embeddings, self.weight)))

    def terms(self, embeddings: Tensor, labels: Tensor, hard: Hard | None) -> AngularTerms:
        """Return the angle to the own class, and what the other classes add up to; the one place where centers count.

        Args:
            embeddings: (B, D) floating point.
            labels: (B,) int64 in [0, C).
            hard: CurricularFace's re-weighting.
        """
        others = Others(self.scale_value, self.sub_centers)
        return angular_terms(embeddings, self.centers(), labels, others, hard, with_sum=self.label_smoothing > 0)

    def extra_repr(self) -> str:
        """Name the sizes and the scale in ``print(head)``."""
        return f"{super().extra_repr()}, scale={self.scale!r}"
