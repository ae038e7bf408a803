"""Pixel values to the network's input."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["normalize_images"]


def normalize_images(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    r"""Turn pixel values into the network's input, :math:`(x / 255 - \mu_c) / \sigma_c` for each channel c.

    Args:
        images: (B, C, H, W), pixel values from 0 to 255, uint8 or floating point. Not changed.
        mean: C means, on the scale from 0 to 1.
        std: C standard deviations, on the same scale, above 0.

    Returns:
        (B, C, H, W) float32, on the device of ``images``.

    Raises:
        ValueError: If ``mean`` or ``std`` has not one value for each channel, or a ``std`` is not above 0.

    Example:
        >>> normalize_images(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8), [0.2], [0.4])
        tensor([[[[-0.5000,  0.0000,  2.0000]]]])
    """
    channels = images.shape[1]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ValueError(f"{name}: got {len(values)} values, accepts one for each of the {channels} channels")
    if min(std) <= 0:
        raise ValueError(f"std: got {tuple(std)}, accepts values above 0")
    pixels = images.to(torch.float32, copy=True).div_(255)
    for channel, values in enumerate(zip(mean, std, strict=True)):
        # Plain numbers, since a tensor of them would make every batch wait for a copy to the device.
        if values != (0, 1):
            pixels[:, channel].sub_(values[0]).div_(values[1])
    return pixels
