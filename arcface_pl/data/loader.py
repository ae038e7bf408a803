"""`BatchLoader`: batches of images that are one tensor on the training device."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from arcface_pl.data.augment import ImageChange
from arcface_pl.data.epochs import Batch, Batches, Step
from arcface_pl.data.labelled import LabelledImages
from arcface_pl.preprocessing import Normalization, normalize_images


class BatchLoader(Batches):
    """Iterate over batches (images, labels) of images in memory; a batch is one index operation.

    Args:
        data: Images and labels, on the device of the batches.
        normalization: Mean, standard deviation and order of the channels.
        **kwargs: Arguments of `Batches`: batch size, order, augmentation, seed, rank.

    Raises:
        ValueError: If there are fewer images than processes.
    """

    def __init__(self, data: LabelledImages, *, normalization: Normalization, **kwargs: Any) -> None:
        super().__init__(data.labels, data.images.shape[-1], **kwargs)
        self.data = data
        self.normalization = normalization

    def batches(self, steps: list[Step]) -> Iterator[Batch]:
        """Make the batches of ``steps``, in order, on the device of the images."""
        for indices, draws in steps:
            images, labels = self.data.images[indices], self.labels[indices]
            yield network_input(images, self.augmentation, draws, self.normalization), labels


def network_input(
    images: Tensor,
    augmentation: ImageChange | None,
    draws: Tensor | None,
    normalization: Normalization,
) -> Tensor:
    """Augment and normalize a batch; bit-identical for images in memory and from worker processes.

    Args:
        images: (B, C, H, W) uint8.
        augmentation: Random changes, or None.
        draws: Random parameters per image from ``augmentation.draw``, or None.
        normalization: Mean, standard deviation and order of the channels.

    Returns:
        (B, C, H, W) float32, channels-last if C > 1.
    """
    if augmentation is not None and draws is not None:
        images = augmentation.apply(images, draws)
    pixels = normalize_images(images, *normalization)
    return pixels.contiguous(memory_format=torch.channels_last) if pixels.shape[1] > 1 else pixels
