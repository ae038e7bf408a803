"""What all heads have: class centers, logits, loss and scores."""

import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from arcface_pl.errors import expected
from arcface_pl.functional import similarity
from arcface_pl.functional.checks import check_batch, check_choice, check_count, check_embeddings, check_number
from arcface_pl.functional.chunked_terms import Shard
from arcface_pl.functional.loss import Reduction
from arcface_pl.functional.products import PRECISIONS, Precision
from arcface_pl.functional.scoring import HeadScores, LogitsOf, logit_scores, predict
from arcface_pl.functional.terms import WHOLE_CELLS
from arcface_pl.heads.centers import CENTER_INITS, CenterDraw, CenterInit
from arcface_pl.heads.class_weights import ClassWeights, first_weights
from arcface_pl.heads.signatures import full_signature


class Head(nn.Module):
    """Class centers, and what turns embeddings into logits and a loss.

    Buffers stay in float32 under ``head.to(torch.bfloat16)``: a running average in bfloat16 would not move. A subclass
    may pass ``**kwargs`` on to its parent; `inspect.signature` of the class then lists the parent's options too.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        sub_centers: K, centers of each class, at least 1; a class's cosine is the largest over its centers.
        label_smoothing: Fraction of the target that is spread evenly over all classes, in [0, 1).
        class_weights: Factor of each sample's loss by its class: "equal" for none, "balanced" for one that is inverse
            to the number of training images of the class, 1 on average over them, or a list of C numbers, at least 0
            and below 1e12, not all of them 0.
        non_target_precision: Operands of the matrix products of the non-target classes in a loss over many classes:
            "float32", "tf32" on CUDA devices (no effect elsewhere), or "bfloat16"; sums are float32, and the target's
            angle stays exact. Scores and predictions do not depend on it.
        center_init: Distribution of the initial centers: "xavier", uniform, of a length that falls with C; "normal",
            N(0, 0.01^2), as in insightface; or "unit", of length 1.
    """

    __signature__: ClassVar[inspect.Signature]

    check_labels: bool
    """Whether calls read the labels' values. A training loop whose data was checked once sets it to False."""
    postponed: CenterDraw | None
    """What draws the centers of a head that was built in `deferred_centers`, until `draw_centers`."""

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        sub_centers: int = 1,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = "equal",
        non_target_precision: Precision = "float32",
        center_init: CenterInit = "xavier",
    ) -> None:
        super().__init__()
        check_count("embedding_dim", embedding_dim, low=1)
        check_count("num_classes", num_classes, low=1)
        check_count("sub_centers", sub_centers, low=1)
        check_number("label_smoothing", label_smoothing, low=0, high=1)
        check_choice("non_target_precision", non_target_precision, PRECISIONS)
        check_choice("center_init", center_init, CENTER_INITS)
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self.sub_centers = sub_centers
        self.label_smoothing = label_smoothing
        self.non_target_precision = non_target_precision
        self.center_init = center_init
        self.check_labels = True
        rows = num_classes * sub_centers
        self.postponed = CenterDraw.postponed(rows, embedding_dim, center_init)
        self.weight = nn.Parameter(torch.empty(rows, embedding_dim, device="meta" if self.postponed else None))
        CenterDraw.fill(self.weight, center_init)
        self.class_weights = class_weights
        self.loss_weights: Tensor | None
        self.register_buffer("loss_weights", first_weights(class_weights, num_classes))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = full_signature(cls)

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
        if self.scores_in_chunks(embeddings):
            check_embeddings(embeddings, self.weight)
            (weight, shard), logits_of = self.loss_centers(), self.chunk_logits(embeddings)
            return predict(embeddings, weight, logits_of, sub_centers=self.sub_centers, shard=shard)
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
        if self.scores_in_chunks(embeddings):
            return self._score_in_chunks(embeddings, labels)
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

    def _score_in_chunks(self, embeddings: Tensor, labels: Tensor) -> HeadScores:
        losses = self.loss(embeddings, labels, reduction="none")
        return logit_scores(embeddings, self.centers(), labels, self.chunk_logits(embeddings), losses)

    def checked(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the labels as int64.

        Raises:
            ValueError: A wrong shape or dtype, an empty batch, or a label outside [0, C).
        """
        check_embeddings(embeddings, self.weight)
        return check_batch(embeddings, labels, self.num_classes, values=self.check_labels)

    def chunk_logits(self, embeddings: Tensor) -> LogitsOf:
        """Return what computes the logits of a chunk of classes, as `forward` does for all; see `LogitsOf`."""
        raise NotImplementedError

    def scores_in_chunks(self, embeddings: Tensor) -> bool:
        """Return whether to score in chunks: there are many classes, and `chunk_logits` is newer than the rest."""
        return embeddings.shape[0] * self.num_classes * self.sub_centers > WHOLE_CELLS and has_chunks(type(self))

    def centers(self) -> Tensor:
        """Return the centers of all classes, (C * K, D)."""
        return self.weight

    def loss_centers(self) -> tuple[Tensor, Shard | None]:
        """Return the centers that losses and scores read here, and which these are in a sharded head."""
        return self.weight, None

    def draw_centers(self, rows: slice | None = None) -> None:
        """Draw the centers that `deferred_centers` postponed, or some rows of them; others are left as they are."""
        if self.postponed is not None:
            rows = slice(0, self.postponed.rows) if rows is None else rows
            self.weight = nn.Parameter(self.postponed.take(rows, self.weight.dtype), self.weight.requires_grad)
            self.postponed = None

    def set_progress(self, *, epoch: float, step: int, seed: int, batch: int = 0) -> None:
        """Set the progress of the training before each batch; margins that change depend on nothing else.

        Args:
            epoch: Epochs done, with the fraction of the running one.
            step: Optimizer steps done.
            seed: The run's seed.
            batch: Number of the batch, different for each of those whose gradients one optimizer step adds up.
        """

    def set_class_counts(self, counts: Tensor) -> None:
        r"""Set the number of training images per class, for loss weights and margins that depend on it.

        The weight of class j for ``class_weights="balanced"``, with N images in all and C' classes that have any, is
        $$w_j = N / (C' n_j)$$
        A class without images counts as one with as few as the rarest has.

        Args:
            counts: (C,) images of each class.

        Raises:
            ValueError: A wrong shape, or a negative count, where counts are needed.
        """
        if self.class_weights != "balanced" or self.loss_weights is None:
            return
        counts = self.checked_counts(counts)
        present = counts[counts > 0]
        if len(present):
            self.loss_weights.copy_(present.double().mean() / counts.clamp_min(present.min()))

    def checked_counts(self, counts: Tensor) -> Tensor:
        """Return the numbers of images per class as a tensor, (C,).

        Raises:
            ValueError: A wrong shape, or a count that is negative, NaN or infinite.
        """
        counts = torch.as_tensor(counts)
        if counts.shape != (self.num_classes,):
            raise ValueError(expected("counts.shape", tuple(counts.shape), f"({self.num_classes},)"))
        if bool((wrong := ~((counts >= 0) & (counts < math.inf))).any()):
            raise ValueError(expected("counts", counts[wrong][0].item(), "numbers of images of at least 0"))
        return counts

    def weigh(self, losses: Tensor, labels: Tensor) -> Tensor:
        """Return the losses (B,) times the weights of their classes; (B,) labels are int64."""
        return losses if self.loss_weights is None else losses * self.loss_weights[labels].to(losses.dtype)

    def extra_repr(self) -> str:
        """Name the sizes in ``print(head)``."""
        return f"embedding_dim={self.embedding_dim}, num_classes={self.num_classes}, sub_centers={self.sub_centers}"


def has_chunks(cls: type[Head]) -> bool:
    """Return whether a class of heads has `chunk_logits`, newer than what else its scores depend on."""
    known = next(each for each in cls.__mro__ if "chunk_logits" in vars(each))
    return known is not Head and all(
        getattr(cls, name) is getattr(known, name) for name in ("forward", "loss", "cosine")
    )
