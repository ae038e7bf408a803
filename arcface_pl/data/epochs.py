"""`Batches`: the content of each batch as a function of seed, epoch, position in the epoch and process."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arcface_pl.data.augment import ImageChange
from arcface_pl.data.split import balanced_order, grouped_order, groups_per_class
from arcface_pl.errors import expected
from arcface_pl.seeding import derive_seed

Batch = tuple[Tensor, Tensor]


class Step(NamedTuple):
    """Content of a batch.

    Attributes:
        indices: Indices of the images, (B,) int64.
        draws: Random augmentation parameters per image, (B, ...) from `ImageChange.draw`, or None.
    """

    indices: Tensor
    draws: Tensor | None


class Batches(ABC):
    """Iterate over batches (images, labels) without any random state.

    Each batch is a function of seed, epoch, its number in the epoch, and rank, so that resumed training continues with
    exactly the next batch.

    Several processes share the images. Shuffled, each gets the same number, and up to ``world_size - 1`` images are
    dropped, different ones in every epoch. In order, every image goes to exactly one process. All processes have the
    same number of batches. If shuffling would leave a last batch of one image, that image joins the batch before it:
    batch normalization cannot train on a single image.

    Args:
        labels: (N,) int64, on the device of the steps.
        image_size: Height and width of the images, in pixels.
        batch_size: Largest number of images per batch.
        shuffle: Use a new order in every epoch.
        balance: With ``shuffle``, draw every class equally often; see `balanced_order`.
        images_per_class: With ``shuffle``, have each batch hold this many images of each of its classes; a divisor of
            ``batch_size``. Processes then share groups of images: what is said of a single image above holds for a
            group. See `grouped_order`. None for any images.
        augmentation: Random changes to each image, or None.
        seed: Seed of order and augmentation.
        rank: Index of this process.
        world_size: Number of processes that share the images.
        position: Called when an iteration begins; returns the epoch and the number of its batches already done. By
            default the epoch of :meth:`set_epoch`, and 0.

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
        images_per_class: int | None = None,
        augmentation: ImageChange | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.group_size = images_per_class or 1 if shuffle else 1
        self.num_groups = len(labels)
        if self.group_size > 1:
            self.num_groups = groups_per_class(torch.bincount(labels.cpu()), self.group_size, balance)[1]
        if self.num_groups < world_size:
            got = f"{len(labels)} images" + (f" in {self.num_groups} groups" if self.group_size > 1 else "")
            accepted = f"at least one for each of {world_size} processes"
            raise ValueError(expected("data", got, accepted, "Use fewer trainer.devices, or more images"))
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
        """Make the batches of ``steps``, in order.

        Args:
            steps: Contents of the batches, on the device of the labels.

        Returns:
            Images (B, C, H, W) float32, channels-last if C > 1, and labels (B,) int64.
        """

    def __len__(self) -> int:
        """Number of batches per epoch, the same on every process."""
        fewest, left = divmod(self.num_groups, self.world_size)
        if not self.shuffle:
            return -(-(fewest + (left > 0)) // self.batch_size)
        full, rest = divmod(fewest, self.batch_size // self.group_size)
        return full + (rest > 1 or not full)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches from the current position to the end of the epoch."""
        # As a generator, this reads the position when the first batch is requested: Lightning creates the iterator
        # before it restores the position.
        epoch, done = self.position() if self.position else (self.epoch, 0)
        order, draws = self._order(epoch), self._draws(epoch)
        yield from self.batches(
            [Step(order[number], None if draws is None else draws[number]) for number in range(done, len(self))]
        )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, if no ``position`` was given."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state. The method tells Lightning that the loader can resume within an epoch."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: B027  # optional to override
        """Do nothing; see :meth:`state_dict`."""

    @property
    def _share(self) -> slice:
        """Indices of this process: every ``world_size``-th, so that the processes of a step take adjacent images."""
        count = self.num_groups * self.group_size
        dropped = self.num_groups % self.world_size * self.group_size if self.shuffle else 0
        return slice(self.rank, count - dropped, self.world_size)

    def _order(self, epoch: int) -> tuple[Tensor, ...]:
        count, device = len(self.labels), self.labels.device
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            if self.group_size > 1:
                whole = self._grouped(generator)
            elif self.balance:
                whole = balanced_order(self.labels.cpu(), generator)
            else:
                whole = torch.randperm(count, generator=generator)
            return self._split(whole[self._share].to(device))
        return self._split(torch.arange(count)[self._share].to(device))

    def _grouped(self, generator: torch.Generator) -> Tensor:
        """Return the order of an epoch in groups of a class, so that `_share` gives each process whole ones."""
        each, usual = self.num_groups // self.world_size, self.batch_size // self.group_size
        sizes = [usual] * (len(self) - 1)
        sizes += [each - sum(sizes)]
        # The batches of the processes follow each other, step by step
        batches = [size for size in sizes for _ in range(self.world_size)]
        order = grouped_order(self.labels.cpu(), self.group_size, batches, generator, balance=self.balance)
        shares = [torch.cat(order.split(batches)[rank :: self.world_size]).flatten() for rank in range(self.world_size)]
        return torch.stack(shares, dim=1).flatten()

    def _draws(self, epoch: int) -> tuple[Tensor, ...] | None:
        if self.augmentation is None:
            return None
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "augmentation", epoch))
        draws = self.augmentation.draw(self.num_groups * self.group_size, self.image_size, generator)
        return self._split(draws[self._share].to(self.labels.device))

    def _split(self, values: Tensor) -> tuple[Tensor, ...]:
        if not self.shuffle:
            # Batches of equal size, so that processes agree on their number even if their shares differ by one image.
            return values.tensor_split(len(self))
        before = [self.batch_size] * (len(self) - 1)
        return values.split([*before, len(values) - sum(before)])
