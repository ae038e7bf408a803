"""What all heads have: class centers, logits, loss and scores."""

import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from arcface_pl.errors import expected
from arcface_pl.functional import similarity
from arcface_pl.functional.checks import check_batch, check_choice, check_count, check_embeddings, check_number
from arcface_pl.functional.chunked_terms import Shard, angular_terms
from arcface_pl.functional.loss import Reduction, loss_of_terms, reduce
from arcface_pl.functional.non_target import NonTarget, Reweighting
from arcface_pl.functional.precision import compute_dtype
from arcface_pl.functional.scoring import HeadScores, angular_scores, predict
from arcface_pl.functional.terms import WHOLE_CELLS


class Head(nn.Module):
    """Class centers, and what turns embeddings into logits and a loss.

    Buffers stay in float32 under ``head.to(torch.bfloat16)``: a running average in bfloat16 would not move. A subclass
    may pass ``**kwargs`` on to its parent; `inspect.signature` of the class then lists the parent's options too.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        sub_centers: K, centers of each class, at least 1; a class's cosine is the largest over its centers.
        label_smoothing: Fraction of the target that is spread evenly over all classes, in [0, 1).
    """

    __signature__: ClassVar[inspect.Signature]

    check_labels: bool
    """Whether calls read the labels' values. A training loop whose data was checked once sets it to False."""

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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = _signature(cls)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Head":
        # torch has no documented hook between a module's `to` and those of its children
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, after in list(self.named_buffers(recurse=False)):
            if after.dtype in (torch.bfloat16, torch.float16):
                setattr(self, name, before[name].to(after.device))
        return self

    def forward(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute logits: for a prediction without labels, with the margin on the target with labels.

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

    def set_progress(self, *, epoch: float, step: int, seed: int, batch: int = 0) -> None:
        """Set the progress of the training before each batch; margins that change depend on nothing else.

        Args:
            epoch: Epochs done, with the fraction of the running one.
            step: Optimizer steps done.
            seed: The run's seed.
            batch: Number of the batch, different for each of those whose gradients one optimizer step adds up.
        """

    def set_class_counts(self, counts: Tensor) -> None:
        """Set the number of training images per class, for heads whose margins depend on it.

        Args:
            counts: (C,) images of each class.
        """

    def extra_repr(self) -> str:
        """Name the sizes in ``print(head)``."""
        return f"embedding_dim={self.embedding_dim}, num_classes={self.num_classes}, sub_centers={self.sub_centers}"


def _signature(cls: type) -> inspect.Signature:
    """Return the signature of a class whose constructors may pass ``**kwargs`` on to the next one."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            _, *parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            for parameter in parameters:
                if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                    found.setdefault(parameter.name, parameter)
            if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters):
                break
    return inspect.Signature(sorted(found.values(), key=lambda parameter: parameter.kind))


class AngularHead(Head):
    r"""Head whose logits are scaled cosines, and whose loss puts ``psi`` in the place of the target cosine.

    A subclass implements ``psi``; logits, loss, scores and sharding follow from it.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        scale: s, positive; or "adacos" for ``sqrt(2) * log(C - 1)``, which needs at least 3 classes.
        **kwargs: Options of `Head`.

    Reference:
        Zhang et al., AdaCos: Adaptively Scaling Cosine Logits for Effectively Learning Deep Face Representations (CVPR
        2019), the fixed variant. Deng et al., Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web
        Faces (ECCV 2020).
    """

    def __init__(
        self, embedding_dim: int, num_classes: int, *, scale: float | Literal["adacos"] = 30.0, **kwargs: Any
    ) -> None:
        super().__init__(embedding_dim, num_classes, **kwargs)
        self.scale = scale
        if isinstance(scale, str):
            check_choice("scale", scale, ("adacos",))
            if num_classes < 3:
                raise ValueError(expected("num_classes", num_classes, "at least 3 for scale='adacos'"))
            self.scale_value = math.sqrt(2) * math.log(num_classes - 1)
        else:
            check_number("scale", scale, low=0, low_open=True, high=1e6)
            self.scale_value = float(scale)

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
        target = self.scale_value * self.psi(*self.target_angle(embeddings, labels), embeddings, labels)
        reweighting = self.reweighting(embeddings, labels)
        cosine = cosine if reweighting is None else reweighting.apply(cosine)
        return (self.scale_value * cosine).scatter(1, labels[:, None], target.to(cosine.dtype)[:, None])

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
        """Compute softplus(S - scale * psi), S the log-sum-exp of the non-target logits.

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
        reweighting = self.reweighting(embeddings, labels)
        weight, shard = self.loss_centers()
        non_target, with_sum = NonTarget(self.scale_value, self.sub_centers), self.label_smoothing > 0
        terms = angular_terms(embeddings, weight, labels, non_target, reweighting, with_sum=with_sum, shard=shard)
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
        psi = self.psi(*self.target_angle(embeddings, labels), embeddings, labels)
        scores = angular_scores(
            embeddings,
            self.centers(),
            labels,
            psi,
            scale=self.scale_value,
            sub_centers=self.sub_centers,
            label_smoothing=self.label_smoothing,
            reweighting=self.reweighting(embeddings, labels),
        )
        penalty = self.penalty(embeddings)
        losses = scores.loss if penalty is None else scores.loss + penalty
        return scores._replace(loss=losses.to(compute_dtype(embeddings, self.weight)))

    def loss_centers(self) -> tuple[Tensor, Shard | None]:
        """Return the centers that a loss reads here, and which these are in a sharded head."""
        return self.centers(), None

    def extra_repr(self) -> str:
        """Name the sizes and the scale in ``print(head)``."""
        return f"{super().extra_repr()}, scale={self.scale!r}"
