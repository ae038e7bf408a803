"""Batches from images that live as one tensor on the training device."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from arcface_pl.data.augment import Augmentation, apply_affine
from arcface_pl.data.labelled import LabelledImages
from arcface_pl.preprocessing import normalize_images
from arcface_pl.seeding import derive_seed

__all__ = ["BatchLoader"]


class BatchLoader:
    """Iterate over batches (images, labels) without workers: a batch is one index operation.

    What a batch holds is a function of seed, epoch, its number in the epoch, and rank, never of what was drawn before,
    so that training that was interrupted goes on with exactly the batch that would have come next.

    Several processes share the images. Shuffled, they get equally many, and up to ``world_size - 1`` images are left
    out, others in each epoch. In order, every image goes to exactly one process. All have equally many batches.

    Args:
        data: The images and labels, on the device where the batches are wanted.
        batch_size: Images in a batch, at most.
        normalization: What is subtracted from each channel and what it is divided by, on the scale from 0 to 1.
        shuffle: A new order in every epoch, or always the order of ``data``.
        augmentation: How each image is changed at random, or None.
        seed: Decides order and augmentation.
        rank: Number of this process.
        world_size: How many processes share the images.
        position: Asked when an iteration begins; returns the epoch, and how many of its batches are done already.
            Without it they are what :meth:`set_epoch` said, and none.

    Raises:
        ValueError: If there are fewer images than processes.
    """

    def __init__(
        self,
        data: LabelledImages,
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
        if len(data.labels) < world_size:
            raise ValueError(f"data: got {len(data.labels)} images, accepts one for each of {world_size} processes")
        self.data = data
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
        fewest, left = divmod(len(self.data.labels), self.world_size)
        most = fewest if self.shuffle or not left else fewest + 1
        return -(-most // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches from the current position to the end of the epoch.

        Images are (B, C, H, W) float32, in channels-last memory where C > 1; labels are (B,) int64.
        """
        # Being a generator, this asks for the position when the first batch is wanted. Lightning makes its iterator
        # before it restores how far the interrupted epoch was.
        epoch, done = self.position() if self.position else (self.epoch, 0)
        order = self._order(epoch)
        matrices = self._matrices(epoch)
        for number in range(done, len(self)):
            yield self._batch(order[number], None if matrices is None else matrices[number])

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is, where no ``position`` was given."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state. Lightning takes the method's presence for "can resume in mid-epoch"."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing; see :meth:`state_dict`."""

    @property
    def _share(self) -> slice:
        """This process's part of a whole epoch: every ``world_size``-th, so that a step of all takes adjacent ones."""
        count = len(self.data.labels)
        return slice(self.rank, count - count % self.world_size if self.shuffle else count, self.world_size)

    def _order(self, epoch: int) -> tuple[Tensor, ...]:
        count = len(self.data.labels)
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            mine = torch.randperm(count, generator=generator)[self._share].to(self.data.labels.device)
            return mine.split(self.batch_size)
        # As equal as can be: where shares differ by one image, all processes must still agree on the number of batches.
        return torch.arange(count)[self._share].to(self.data.labels.device).tensor_split(len(self))

    def _matrices(self, epoch: int) -> tuple[Tensor, ...] | None:
        if self.augmentation is None:
            return None
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "augmentation", epoch))
        draws = self.augmentation.draw(len(self.data.labels), self.data.images.shape[-1], generator)
        return draws[self._share].to(self.data.images.device).split(self.batch_size)

    def _batch(self, indices: Tensor, matrices: Tensor | None) -> tuple[Tensor, Tensor]:
        images, labels = self.data.images[indices], self.data.labels[indices]
        if matrices is not None:
            images = apply_affine(images.float(), matrices)
        pixels = normalize_images(images, *self.normalization)
        return pixels.contiguous(memory_format=torch.channels_last) if pixels.shape[1] > 1 else pixels, labels
