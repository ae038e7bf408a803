"""Images for display, whatever normalization they went through."""

import torch
from torch import Tensor


def displayable(images: Tensor) -> Tensor:
    """Scale images to [0, 1] per channel; gray ones are inverted, to dark on light.

    The range is that over all images, which undoes any normalization.

    Args:
        images: (N, C, H, W), any real dtype, N >= 1, C 1 or 3.

    Returns:
        (N, C, H, W) float32 in [0, 1].
    """
    images = images.detach().float()
    low, high = (bound(images, dim=(0, 2, 3), keepdim=True) for bound in (torch.amin, torch.amax))
    images = (images - low) / (high - low).clamp_min(1e-12)
    return 1 - images if images.shape[1] == 1 else images
