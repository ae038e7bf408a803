"""Cosines of many pairs of embeddings, in float32 whatever the surroundings have chosen."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cosine_block", "unit_rows"]


def unit_rows(embeddings: Tensor) -> Tensor:
    """Scale rows to length 1 and return them as float32; a row of zeros stays zero, so that all its cosines are 0."""
    return F.normalize(embeddings, dim=1).float()


def cosine_block(rows: Tensor, columns: Tensor, out: Tensor | None = None) -> Tensor:
    """Every cosine between two sets of unit rows, (R, D) and (C, D) -> (R, C), float32."""
    with torch.autocast(rows.device.type, enabled=False), _full_precision():
        # -0.0 and 0.0 are one score but two bit patterns; adding 0.0 leaves only one of them.
        return torch.mm(rows, columns.T, out=out).add_(0.0)


@contextmanager
def _full_precision() -> Iterator[None]:
    # Under `set_float32_matmul_precision("medium")` cosines would come out in TF32 or bf16, whose steps of 1e-3 make
    # ties of most close pairs.
    mkldnn = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # the module is replaced when it is imported
    backends = [backend for backend in (torch.backends.cuda.matmul, mkldnn) if backend.fp32_precision != "none"]
    chosen = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, chosen, strict=True):
            backend.fp32_precision = precision
