"""What the heads with a margin have: its warm-up, and margins that depend on how rare a class is."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from arcface_pl.functional.checks import check_choice, check_number
from arcface_pl.functional.precision import pair_dtype
from arcface_pl.heads.angular import AngularHead, Scale


class MarginHead(AngularHead):
    r"""Angular head with a margin that may grow during training and differ between classes.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        scale: s, positive; or, with at least 3 classes, one that is ``sqrt(2) * log(C - 1)`` throughout ("adacos") or
            at first ("adacos_dynamic" follows the batches, "learnable" is trained as ``exp(log_scale)``).
        margin_warmup_epochs: Epochs over which the margin grows linearly from none; 0 starts with the full margin.
        class_margins: "equal", or "frequency" for margins that are larger for rarer classes.
        **kwargs: Options of `Head`.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        scale: Scale = 64.0,
        margin_warmup_epochs: float = 0,
        class_margins: Literal["equal", "frequency"] = "equal",
        **kwargs: Any,
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale=scale, **kwargs)
        check_number("margin_warmup_epochs", margin_warmup_epochs, low=0)
        check_choice("class_margins", class_margins, ("equal", "frequency"))
        self.margin_warmup_epochs = margin_warmup_epochs
        self.class_margins = class_margins
        # A tensor where it changes: torch.compile would compile anew for every number
        self._warmup = torch.ones((), dtype=torch.float64) if margin_warmup_epochs else 1.0
        self.class_factors: Tensor | None
        factors = torch.ones(num_classes, dtype=torch.float32) if class_margins == "frequency" else None
        self.register_buffer("class_factors", factors)

    def set_progress(self, *, epoch: float, step: int, seed: int, batch: int = 0) -> None:
        """Grow the margin to epoch / margin_warmup_epochs of its full size, and no further, see `Head.set_progress`."""
        super().set_progress(epoch=epoch, step=step, seed=seed, batch=batch)
        if isinstance(self._warmup, Tensor):
            self._warmup.fill_(min(1.0, epoch / self.margin_warmup_epochs))

    def set_class_counts(self, counts: Tensor) -> None:
        r"""Set the margin of each class from the number of its training images.

        $$m_j = m \, (n_{\min} / n_j)^{1/4}$$

        The rarest class that has images gets the full margin, and so do classes without images. Without
        ``class_margins="frequency"`` margins stay as they are. See `Head.set_class_counts`.

        Args:
            counts: (C,) images of each class.

        Reference:
            Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss (NeurIPS 2019), whose
            margins are proportional to the count to the power of -1/4.
        """
        super().set_class_counts(counts)
        if self.class_factors is None:
            return
        counts = self.checked_counts(counts)
        rarest = counts[counts > 0].min() if bool((counts > 0).any()) else 1
        self.class_factors.copy_((rarest / counts.clamp_min(rarest)) ** 0.25)

    def strength(self, labels: Tensor) -> float | Tensor:
        """Return the current fraction of each sample's margin: a number, or (B,) float64.

        Args:
            labels: (B,) integers in [0, C).
        """
        if self.class_factors is None:
            return self._warmup
        return self.class_factors[labels.long()].to(pair_dtype(labels.device)) * self._warmup


def check_angle(name: str, value: object) -> None:
    """Check that ``value`` is an angle in [0, pi).

    Raises:
        ValueError: If it is not.
    """
    check_number(name, value, low=0, high=math.pi)
