"""Pixel values to the network's input."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from arcface_pl.errors import expected

ChannelOrder = Literal["rgb", "bgr"]
CHANNEL_ORDERS: tuple[ChannelOrder, ...] = get_args(ChannelOrder)


class Normalization(NamedTuple):
    """How pixels become the network's input; the arguments of `normalize_images`.

    Attributes:
        mean: Mean per channel, on a scale of 0 to 1, in the order of the images.
        std: Standard deviation per channel, in the order of the images.
        channel_order: Order of the channels in the network's input.
    """

    mean: Sequence[float]
    std: Sequence[float]
    channel_order: ChannelOrder = "rgb"


def in_order(images: Tensor, channel_order: ChannelOrder) -> Tensor:
    """Turn RGB images into the network's order of channels, or the network's input into RGB: the same exchange.

    Args:
        images: (B, C, H, W), any dtype.
        channel_order: The network's.
    """
    return images.flip(1) if channel_order == "bgr" else images


def normalize_images(
    images: Tensor, mean: Sequence[float], std: Sequence[float], channel_order: ChannelOrder = "rgb"
) -> Tensor:
    r"""Turn pixel values into the network's input, :math:`(x / 255 - \mu_c) / \sigma_c` for each channel c.

    Args:
        images: (B, C, H, W), pixel values from 0 to 255, uint8 or floating point. Not changed.
        mean: C means, on a scale of 0 to 1.
        std: C standard deviations, on the same scale, above 0.
        channel_order: Order of the channels in the result; images, ``mean`` and ``std`` are in RGB.

    Returns:
        (B, C, H, W) float32, on the device of ``images``.

    Raises:
        ValueError: If ``mean`` or ``std`` does not have one value per channel, or a ``std`` is not above 0.

    Example:
        >>> normalize_images(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8), [0.2], [0.4])
        tensor([[[[-0.5000,  0.0000,  2.0000]]]])
    """
    channels = images.shape[1]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ValueError(expected(name, values, f"{channels} values, one per channel"))
    if min(std) <= 0:
        raise ValueError(expected("std", std, "values above 0"))
    pixels = images.to(torch.float32, copy=True).div_(255)
    for channel, values in enumerate(zip(mean, std, strict=True)):
        # Python numbers: a tensor would make every batch wait for a copy to the device.
        if values != (0, 1):
            pixels[:, channel].sub_(values[0]).div_(values[1])
    return in_order(pixels, channel_order)
