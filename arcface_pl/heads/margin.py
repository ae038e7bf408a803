"""What the heads with a margin share: warm-up of the margin, and margins that depend on how rare a class is."""

import math
from typing import Literal

import torch
from torch import Tensor

from arcface_pl.functional._checks import check_choice, check_number
from arcface_pl.heads.base import AngularHead

__all__ = ["MarginHead"]


class MarginHead(AngularHead):
    r"""Angular head with a margin.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        margin: m, in the unit of the loss.
        scale: s, positive; or "adacos" for ``sqrt(2) * log(C - 1)``, which needs at least 3 classes.
        sub_centers: K, centers of each class, at least 1.
        margin_warmup_epochs: Epochs over which the margin grows linearly from 0; 0 begins with the whole margin.
        class_margins: "equal", or "frequency" for margins that are larger for rarer classes.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float,
        scale: float | Literal["adacos"] = 30.0,
        sub_centers: int = 1,
        margin_warmup_epochs: float = 0,
        class_margins: Literal["equal", "frequency"] = "equal",
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale=scale, sub_centers=sub_centers)
        check_number("margin_warmup_epochs", margin_warmup_epochs, low=0)
        check_choice("class_margins", class_margins, ("equal", "frequency"))
        self.margin = margin
        self.margin_warmup_epochs = margin_warmup_epochs
        self.class_margins = class_margins
        self._grown = 1.0
        self.class_factors: Tensor | None
        self.register_buffer("class_factors", torch.ones(num_classes) if class_margins == "frequency" else None)

    def set_progress(self, *, epoch: float, step: int, seed: int) -> None:
        """Grow the margin: epoch / margin_warmup_epochs of it, and all of it after that.

        Args:
            epoch: Epochs done, with the part of the running one.
            step: Optimiser steps done.
            seed: The run's seed.
        """
        if self.margin_warmup_epochs:
            self._grown = min(1.0, epoch / self.margin_warmup_epochs)

    def set_class_counts(self, counts: Tensor) -> None:
        r"""Set each class's margin from the number of its training images.

        $$m_j = m \, (n_{\min} / n_j)^{1/4}$$

        The rarest class has the whole margin. Without ``class_margins="frequency"`` nothing changes.

        Args:
            counts: (C,) images of each class, at least 1 each.

        Raises:
            ValueError: A wrong shape, or a count below 1.

        Reference:
            Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss (NeurIPS 2019), whose
            margins are in proportion to the count to the power of -1/4.
        """
        counts = torch.as_tensor(counts)
        if counts.shape != (self.num_classes,) or not bool((counts >= 1).all()):
            raise ValueError(
                f"counts must be {self.num_classes} numbers of images, at least 1 each; got shape "
                f"{tuple(counts.shape)}, smallest {counts.min().item() if counts.numel() else None}"
            )
        if self.class_factors is not None:
            counts = counts.double()
            self.class_factors.copy_((counts.min() / counts) ** 0.25)

    def grown(self, margin: float, labels: Tensor) -> float | Tensor:
        """Return ``margin`` as it is now for each of these labels."""
        if self.class_factors is None:
            return margin * self._grown
        return self.class_factors[labels.long()].double() * (margin * self._grown)

    def extra_repr(self) -> str:
        """Name the sizes, the scale and the margin in ``print(head)``."""
        return f"{super().extra_repr()}, margin={self.margin!r}"


def check_angle(name: str, value: object) -> None:
    """Refuse what is not an angle in [0, pi)."""
    check_number(name, value, low=0, high=math.pi)
