"""Images for display, whatever normalization they went through."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from arcface_pl.figures.style import class_color


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


def tinted(images: Tensor, labels: Tensor) -> Tensor:
    """Show the class of each image by color: gray images are on colored paper, others have a colored frame.

    Args:
        images: (N, 1 or 3, H, W) in [0, 1], gray ones dark on light, as from `displayable`.
        labels: (N,) integers.

    Returns:
        (N, 3, H, W) float32 in [0, 1].
    """
    colors = [bytes.fromhex(class_color(label)[1:]) for label in labels.tolist()]
    paper = torch.tensor([list(color) for color in colors]).view(-1, 3, 1, 1) / 255
    if images.shape[1] == 1:
        return images * (0.75 * paper + 0.25)
    width = max(1, min(images.shape[2:]) // 14)
    inside = pad(torch.ones(tuple(side - 2 * width for side in images.shape[2:])), [width] * 4)
    return inside * images + (1 - inside) * paper
