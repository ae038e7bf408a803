"""Images as they can be looked at, whatever normalisation they went through."""

import torch
from torch import Tensor

__all__ = ["displayable"]


def displayable(images: Tensor) -> Tensor:
    """Bring images to the scale from 0 to 1; grey ones become dark ink on light paper.

    Over several images each channel reaches from black to full, which undoes a normalisation without knowing it.

    Args:
        images: (N, C, H, W), any real dtype, N >= 1, C 1 or 3.

    Returns:
        (N, C, H, W) float32 in [0, 1].
    """
    images = images.detach().float()
    low, high = (bound(images, dim=(0, 2, 3), keepdim=True) for bound in (torch.amin, torch.amax))
    images = (images - low) / (high - low).clamp_min(1e-12)
    return 1 - images if images.shape[1] == 1 else images
