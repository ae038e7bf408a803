"""What the tests of the loss share: margins, angles and random batches."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from arcface_pl.functional import arcface_psi

ANGLES = (
    1e-4,
    1e-3,
    0.02,
    0.3,
    1.0,
    math.pi / 2,
    2.2,
    math.pi - 0.505,
    math.pi - 0.495,
    math.pi - 1e-3,
    math.pi - 1e-4,
)
WHOLE, CHUNKED = None, 2


def arc(margin: float, extension: str = "monotone") -> Callable[[Tensor, Tensor], Tensor]:
    return lambda cosine, sine: arcface_psi(cosine, margin, sine=sine, extension=extension)


def at_angle(theta: float, classes: int = 3, dim: int = 3, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """One embedding at this angle from the center of class 0, and centers of uneven lengths."""
    generator = torch.Generator().manual_seed(1)
    axes, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    weight = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    weight[0] = 1.7 * axes[0]
    embedding = 3.3 * (math.cos(theta) * axes[0] + math.sin(theta) * axes[1])
    return embedding[None].to(dtype).requires_grad_(), weight.float().requires_grad_()


def batch(
    size: int = 8,
    classes: int = 10,
    dim: int = 16,
    sub_centers: int = 1,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = 3 * torch.randn(size, dim, generator=generator, dtype=torch.float64)
    weight = torch.randn(classes * sub_centers, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (size,), generator=generator)
    return embeddings.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), labels
