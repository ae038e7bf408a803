"""What the loss of the non-target classes is computed of: a batch, the classes, and how these enter."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.functional.products import Precision

UNSHIFTED_LOGIT = 64.0
"""Up to this logit, exp(logit), its sum over 1e9 classes and exp(-logit) are float32 numbers without a shift."""
CPU_CHUNK_ROWS = 2048
"""At batch 256 and dim 128 on two cores 1,024 were 3% slower, 3,072 and 4,096 no faster; all were equally exact."""
GPU_CHUNK_CELLS = 1 << 24
"""64 MiB in float32: kernels so large that launching them, some 20 per chunk, takes none of their time."""


class Reweighting(NamedTuple):
    """CurricularFace's re-weighting: a cosine c above the sample's threshold counts as c * (t + c)."""

    threshold: Tensor
    """(B,) cosine above which a non-target class is a hard one for the sample."""
    t: Tensor
    """Scalar, the progress of the training."""

    def apply(self, cosine: Tensor) -> Tensor:
        """Return re-weighted cosines (B, n)."""
        is_hard = cosine > self.threshold.to(cosine.dtype)[:, None]
        return torch.where(is_hard, cosine * (self.t.to(cosine.dtype) + cosine), cosine)


@dataclass(frozen=True)
class NonTarget:
    """How the non-target classes enter a sample's loss."""

    scale: float | Tensor = 1.0
    """Factor of the cosines; a scalar tensor is not read, so that no device has to be waited for."""
    sub_centers: int = 1
    """Centers per class, of which the nearest counts."""
    chunk_size: int | None = None
    """Classes per chunk; None chooses from the shape and the device."""
    normalize: bool = True
    """Whether to divide the centers by their length."""
    precision: Precision = "float32"
    """Of the matrix products' operands."""

    def chunk(self, batch: int, dim: int, device: torch.device) -> int:
        """Return the number of classes per chunk."""
        if self.chunk_size is not None:
            return self.chunk_size
        rows = CPU_CHUNK_ROWS if device.type == "cpu" else GPU_CHUNK_CELLS // max(batch, dim)
        return max(1, rows // self.sub_centers)


class Problem(NamedTuple):
    """A batch and the classes that it is compared with."""

    embeddings: Tensor
    """(B, D) float32 or float64, of length one where the centers are normalized."""
    weight: Tensor
    """(C * K, D) class centers of any length."""
    labels: Tensor
    """(B,) int64 relative to the first of these classes; a label outside [0, C) excludes nothing."""
    non_target: NonTarget
    reweighting: Reweighting | None = None
    bias: Tensor | None = None
    """(C,), added to the logits."""
    divisor: Tensor | None = None
    """(B, 1), what embeddings were divided by to keep their logits finite; only for logits that need a shift."""

    def needs_shift(self) -> bool:
        """Return whether logits may be too large for exp."""
        scale = self.non_target.scale
        if isinstance(scale, Tensor) or not self.non_target.normalize:
            return True
        return scale * (1 if self.reweighting is None else 2) > UNSHIFTED_LOGIT

    def logits_buffer(self) -> Tensor | None:
        """Return the memory of the weight's gradient where the forward pass can keep its logits in it, or None.

        With B <= D the (B, C) logits fit into the (C, D) gradient: the backward pass then needs three matrix products
        instead of four, and no more memory at its peak.
        """
        embeddings, weight = self.embeddings, self.weight
        fits = embeddings.shape[0] <= embeddings.shape[1] and embeddings.dtype == weight.dtype
        return torch.empty_like(weight) if fits and self.non_target.sub_centers == 1 and not self.reweighting else None
