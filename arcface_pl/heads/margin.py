"""What the heads with a margin share: warm-up of the margin, and margins that depend on how rare a class is."""

import math
from typing import Literal

import torch
from torch import Tensor

from arcface_pl.functional.checks import check_choice, check_number
from arcface_pl.functional.precision import pair_dtype
from arcface_pl.heads.base import AngularHead

__all__ = ["MarginHead"]


class MarginHead(AngularHead):
    r"""Angular head with a margin that may grow in the course of training and differ between classes.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        scale: s, positive; or "adacos" for ``sqrt(2) * log(C - 1)``, which needs at least 3 classes.
        sub_centers: K, centers of each class, at least 1; a class's cosine is the largest over its centers.
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).
        margin_warmup_epochs: Epochs over which the margin grows linearly from 0; 0 begins with the whole margin.
        class_margins: "equal", or "frequency" for margins that are larger for rarer classes.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        scale: float | Literal["adacos"] = 64.0,
        sub_centers: int = 1,
        label_smoothing: float = 0.0,
        margin_warmup_epochs: float = 0,
        class_margins: Literal["equal", "frequency"] = "equal",
    ) -> None:
        super().__init__(
            embedding_dim, num_classes, scale=scale, sub_centers=sub_centers, label_smoothing=label_smoothing
        )
        check_number("margin_warmup_epochs", margin_warmup_epochs, low=0)
        check_choice("class_margins", class_margins, ("equal", "frequency"))
        self.margin_warmup_epochs = margin_warmup_epochs
        self.class_margins = class_margins
        # A tensor where it changes, since a number would make torch.compile start anew at every step
        self._warmup = torch.ones((), dtype=torch.float64) if margin_warmup_epochs else 1.0
        self.class_factors: Tensor | None
        self.register_buffer("class_factors", torch.ones(num_classes) if class_margins == "frequency" else None)

    def set_progress(self, *, epoch: float, step: int, seed: int) -> None:
        """Grow the margin: epoch / margin_warmup_epochs of it, and all of it after that.

        Args:
            epoch: Epochs done, with the part of the running one.
            step: Optimiser steps done.
            seed: The run's seed.
        """
        if isinstance(self._warmup, Tensor):
            self._warmup.fill_(min(1.0, epoch / self.margin_warmup_epochs))

    def set_class_counts(self, counts: Tensor) -> None:
        r"""Set each class's margin from the number of its training images.

        $$m_j = m \, (n_{\min} / n_j)^{1/4}$$

        The rarest class has the whole margin. Without ``class_margins="frequency"`` nothing changes.

        Args:
            counts: (C,) images of each class; 0 counts as 1.

        Raises:
            ValueError: A wrong shape, or a negative count.

        Reference:
            Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss (NeurIPS 2019), whose
            margins are in proportion to the count to the power of -1/4.
        """
        if self.class_factors is None:
            return
        counts = torch.as_tensor(counts)
        if counts.shape != (self.num_classes,) or bool((counts < 0).any()):
            raise ValueError(
                f"counts must be {self.num_classes} numbers of images, none negative; got shape {tuple(counts.shape)}"
                + (f" with smallest {counts.min().item()}" if counts.numel() else "")
            )
        counts = counts.clamp_min(1)
        self.class_factors.copy_((counts.min() / counts) ** 0.25)

    def strength(self, labels: Tensor) -> float | Tensor:
        """Return which part of its margin each sample has now: a number, or (B,) float64.

        Args:
            labels: (B,) integers in [0, C).
        """
        if self.class_factors is None:
            return self._warmup
        return self.class_factors[labels.long()].to(pair_dtype(labels.device)) * self._warmup


def check_angle(name: str, value: object) -> None:
    """Refuse what is not an angle in [0, pi)."""
    check_number(name, value, low=0, high=math.pi)
