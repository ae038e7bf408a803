"""Images and their labels, as every reader returns them and every loader takes them."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LabelledImages"]


class LabelledImages(NamedTuple):
    """Images and their labels, on one device.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
    """

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "LabelledImages":
        """Move both to a device; what is there already is not copied."""
        return LabelledImages(self.images.to(device), self.labels.to(device))

    def select(self, indices: Tensor) -> "LabelledImages":
        """Take the images at ``indices``, in that order."""
        return LabelledImages(self.images[indices], self.labels[indices])
