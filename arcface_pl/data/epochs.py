"""What the batches of an epoch hold, as a function of seed, epoch, place in the epoch and process."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arcface_pl.data.augment import Augmentation
from arcface_pl.data.split import balanced_order
from arcface_pl.seeding import derive_seed

__all__ = ["Batch", "Batches", "Step"]

Batch = tuple[Tensor, Tensor]


class Step(NamedTuple):
    """What one batch is made of.

    Attributes:
        indices: Which images, (B,) int64.
        draws: How each of them is changed at random, (B, ...) as `Augmentation.draw` returns them, or None.
    """

    indices: Tensor
    draws: Tensor | None


class Batches(ABC):
    """Iterate over batches (images, labels) that depend on nothing that was drawn before.

    What a batch holds is a function of seed, epoch, its number in the epoch, and rank, so that training that was
    interrupted goes on with exactly the batch that would have come next.

    Several processes share the images. Shuffled, they get equally many, and up to ``world_size - 1`` images are left
    out, others in each epoch. In order, every image goes to exactly one process. All have equally many batches.

    Args:
        labels: (N,) int64, on the device where steps are wanted.
        image_size: Height and width of the images in pixels, which augmentation is drawn for.
        batch_size: Images in a batch, at most.
        shuffle: A new order in every epoch, or always the images' own.
        balance: With ``shuffle``, draw every class equally often; see `balanced_order`.
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
        labels: Tensor,
        image_size: int,
        *,
        batch_size: int,
        shuffle: bool = False,
        balance: bool = False,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        if len(labels) < world_size:
            raise ValueError(f"data: got {len(labels)} images, accepts one for each of {world_size} processes")
        self.labels = labels
        self.image_size = image_size
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.balance = balance
        self.augmentation = augmentation
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self.epoch = 0

    @abstractmethod
    def batches(self, steps: list[Step]) -> Iterator[Batch]:
        """Make the batches of ``steps``, in their order.

        Args:
            steps: On the device of the labels.

        Returns:
            Images (B, C, H, W) float32, in channels-last memory where C > 1, and labels (B,) int64.
        """

    def __len__(self) -> int:
        """Batches in a whole epoch, the same on every process."""
        fewest, left = divmod(len(self.labels), self.world_size)
        most = fewest if self.shuffle or not left else fewest + 1
        return -(-most // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches from the current position to the end of the epoch."""
        # Being a generator, this asks for the position when the first batch is wanted. Lightning makes its iterator
        # before it restores how far the interrupted epoch was.
        epoch, done = self.position() if self.position else (self.epoch, 0)
        order, draws = self._order(epoch), self._draws(epoch)
        yield from self.batches(
            [Step(order[number], None if draws is None else draws[number]) for number in range(done, len(self))]
        )

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is, where no ``position`` was given."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state. Lightning takes the method's presence for "can resume in mid-epoch"."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: B027  # nothing is all there is to do
        """Do nothing; see :meth:`state_dict`."""

    @property
    def _share(self) -> slice:
        """This process's part of a whole epoch: every ``world_size``-th, so that a step of all takes adjacent ones."""
        count = len(self.labels)
        return slice(self.rank, count - count % self.world_size if self.shuffle else count, self.world_size)

    def _order(self, epoch: int) -> tuple[Tensor, ...]:
        count, device = len(self.labels), self.labels.device
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            if self.balance:
                whole = balanced_order(self.labels.cpu(), generator)
            else:
                whole = torch.randperm(count, generator=generator)
            return whole[self._share].to(device).split(self.batch_size)
        # As equal as can be: where shares differ by one image, all processes must still agree on the number of batches.
        return torch.arange(count)[self._share].to(device).tensor_split(len(self))

    def _draws(self, epoch: int) -> tuple[Tensor, ...] | None:
        if self.augmentation is None:
            return None
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "augmentation", epoch))
        draws = self.augmentation.draw(len(self.labels), self.image_size, generator)
        return draws[self._share].to(self.labels.device).split(self.batch_size)
