"""Batches from images that live as one tensor on the training device."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from arcface_pl.data.augment import affine_matrices, apply_affine
from arcface_pl.preprocessing import normalize_images
from arcface_pl.seeding import derive_seed

__all__ = ["Augmentation", "BatchLoader"]


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the random transformation of each training image.

    Attributes:
        rotation: Largest rotation either way, in degrees.
        shift: Largest shift along either axis, in pixels.
        zoom: Largest change of size, as a fraction.
    """

    rotation: float
    shift: float
    zoom: float


class BatchLoader:
    """Iterate over batches (images, labels) without workers: a batch is one index operation.

    What a batch holds is a function of (seed, epoch, number of the batch, rank) alone, so that training that was
    interrupted goes on with exactly the batch that would have come next.

    Args:
        images: (N, C, H, W) uint8, on the device where the batches are wanted.
        labels: (N,) int64, on the same device.
        batch_size: Images in a batch, at most.
        normalization: Means and standard deviations for each channel, on the scale from 0 to 1.
        shuffle: A new order every epoch (training), or the order of ``images`` (evaluation). Shuffled, every process
            gets equally many images and up to ``world_size - 1`` are left out, others in each epoch; in order, every
            image goes to exactly one process, and all have equally many batches.
        augmentation: How each image is changed at random, or None.
        seed: Decides order and augmentation.
        rank: Number of this process.
        world_size: How many processes share the images.
        position: Called when an iteration begins; returns the epoch and how many of its batches are done already.
            Without it they are what :meth:`set_epoch` said, and none.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        normalization: tuple[tuple[float, ...], tuple[float, ...]],
        shuffle: bool = False,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        if len(images) < world_size:
            raise ValueError(f"images: got {len(images)}, accepts at least one for each of the {world_size} processes")
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.normalization = normalization
        self.shuffle = shuffle
        self.augmentation = augmentation
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self.epoch = 0

    def __len__(self) -> int:
        """Batches in a whole epoch, the same on every process."""
        images = len(self.images) / self.world_size
        return math.ceil((math.floor(images) if self.shuffle else math.ceil(images)) / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is, where no ``position`` was given."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate from the current position to the end of the epoch."""
        # A generator, so that the position is asked for with the first batch: Lightning makes its iterator before it
        # restores how far the epoch was.
        epoch, first = self.position() if self.position else (self.epoch, 0)
        order, matrices = self._plan(epoch)
        for index, transforms in list(zip(order, matrices, strict=True))[first:]:
            yield self._batch(index, transforms)

    def _plan(self, epoch: int) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
        """Decide a whole epoch at once: the indices of every batch of this process, and their transformations."""
        device, count = self.images.device, len(self.images)
        shard = slice(self.rank, count - count % self.world_size if self.shuffle else count, self.world_size)
        order = torch.arange(count)
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            order = torch.randperm(count, generator=generator)
        # Shuffled, only the last batch is short; in order, all are as equal as they can be, since processes whose
        # shares differ by one image must still agree on the number of batches.
        mine = order[shard].to(device)
        split = mine.split(self.batch_size) if self.shuffle else mine.tensor_split(len(self))
        if self.augmentation is None:
            return split, (None,) * len(split)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "augmentation", epoch))
        matrices = affine_matrices(
            count,
            rotation=self.augmentation.rotation,
            shift=self.augmentation.shift,
            zoom=self.augmentation.zoom,
            size=self.images.shape[-1],
            generator=generator,
        )
        return split, matrices[shard].to(device).split(self.batch_size)

    def _batch(self, index: Tensor, matrices: Tensor | None) -> tuple[Tensor, Tensor]:
        images, labels = self.images[index], self.labels[index]
        if matrices is not None:
            images = apply_affine(images.float(), matrices)
        pixels = normalize_images(images, *self.normalization)
        if pixels.shape[1] > 1:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return pixels, labels
