"""Cosines of many pairs of embeddings, in float32 regardless of autocast and matmul precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def unit_rows(embeddings: Tensor) -> Tensor:
    """Normalize rows of any length, (N, D) -> (N, D), in their dtype; a row of zeros stays zero.

    Rows are divided by a power of two first, which is exact: squares of 1e-30 or 1e30 are out of float32's range.
    """
    largest = embeddings.abs().amax(1, keepdim=True)
    # Between a half and one times the largest entry; float32 has no 2**128
    power = largest / (2 * torch.frexp(largest).mantissa)
    rows = embeddings / torch.where(largest > 0, power, 1)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows.div_(torch.where(norms > 0, norms, 1))


def cosine_block(rows: Tensor, columns: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute all cosines between two sets of unit rows, (R, D) and (C, D) -> (R, C), float32."""
    with torch.autocast(rows.device.type, enabled=False), _full_precision():
        # -0.0 and 0.0 are one score with two bit patterns; adding 0.0 leaves one of them
        return torch.mm(rows, columns.T, out=out).add_(0.0)


@contextmanager
def _full_precision() -> Iterator[None]:
    # `set_float32_matmul_precision("medium")` would give cosines in TF32 or bf16, whose steps of 1e-3 turn most close
    # pairs into ties
    mkldnn = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # replaced when it is imported
    backends = [backend for backend in (torch.backends.cuda.matmul, mkldnn) if backend.fp32_precision != "none"]
    chosen = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, chosen, strict=True):
            backend.fp32_precision = precision
