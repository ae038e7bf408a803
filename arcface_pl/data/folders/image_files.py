"""Image files of any size and kind as square uint8 images, read here or in worker processes."""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from arcface_pl.data.augment import Augmentation
from arcface_pl.data.epochs import Batch, Batches, Step
from arcface_pl.data.folders.workers import Workers
from arcface_pl.data.labelled import LabelledFiles, LabelledImages
from arcface_pl.data.loader import network_input
from arcface_pl.errors import DataError, listed
from arcface_pl.preprocessing import ImageError, Preprocessor

__all__ = ["FileLoader", "ImageFiles", "Unreadable", "pixel_statistics", "report_unreadable"]

_CHUNK = 64  # images that a worker reads at once where no batch is asked for
_MOST_MEASURED = 4096


class Unreadable(NamedTuple):
    """An image file that cannot be read.

    Attributes:
        place: Which one, counted from 0.
        reason: What is wrong, with its name.
    """

    place: int
    reason: str


class ImageFiles(NamedTuple):
    """Files, and what their images are to be like.

    Attributes:
        root: Folder that the files' names are relative to.
        files: The files and their labels.
        preprocessor: What their images are brought to.
    """

    root: Path
    files: LabelledFiles
    preprocessor: Preprocessor

    @property
    def labels(self) -> Tensor:
        """Labels of the files, (N,) int64."""
        return self.files.labels

    @property
    def images(self) -> Tensor:
        """All images, (N, C, H, W) uint8, read when asked for; black where a file cannot be read."""
        return self.load(num_workers=0)[0].images

    @property
    def num_bytes(self) -> int:
        """Memory that all images would take."""
        return len(self.labels) * self._shape.numel()

    @property
    def _shape(self) -> torch.Size:
        size = self.preprocessor.image_size
        return torch.Size((self.preprocessor.in_channels, size, size))

    def to(self, device: torch.device) -> "ImageFiles":
        """Return the files: they are read on the CPU."""
        return self

    def with_white_level(self, white_level: float | None) -> "ImageFiles":
        """Read files of more than 8 bits per channel on another scale; see `read_image`."""
        return self._replace(preprocessor=replace(self.preprocessor, white_level=white_level))

    def select(self, indices: Tensor) -> "ImageFiles":
        """Take the files at ``indices``, in that order."""
        return self._replace(files=self.files.select(indices))

    def read(self, indices: Tensor) -> tuple[Tensor, list[Unreadable]]:
        """Read the images at ``indices``.

        Args:
            indices: (B,) int64.

        Returns:
            (B, C, H, W) uint8, black where a file cannot be read, and which those are.
        """
        images = torch.zeros(len(indices), *self._shape, dtype=torch.uint8)
        unreadable = []
        for place, (index, name) in enumerate(zip(indices.tolist(), self.files.names(indices), strict=True)):
            path = self.root / name
            try:
                images[place] = self.preprocessor.read(path)
            except ImageError as error:
                reason = str(error)
                unreadable.append(Unreadable(index, reason if str(path) in reason else f"{path}: {reason}"))
        return images, unreadable

    def read_all(self, num_workers: int, purpose: str) -> Iterator[tuple[Tensor, list[Unreadable]]]:
        """Read every image, in order, some at a time, as :meth:`read` does, with a bar that says what for."""
        chunks = torch.arange(len(self.labels)).split(_CHUNK)
        console = Console(stderr=True)
        yield from track(
            Workers(self.read, num_workers).map(chunks),
            purpose,
            total=len(chunks),
            console=console,
            transient=True,
            auto_refresh=False,  # the thread that refreshes would be forked into the workers
            disable=not console.is_terminal or os.environ.get("LOCAL_RANK", "0") != "0",
        )

    def load(self, num_workers: int) -> tuple[LabelledImages, list[Unreadable]]:
        """Read every image into one tensor."""
        images = torch.empty(len(self.labels), *self._shape, dtype=torch.uint8)
        unreadable = []
        for number, (chunk, found) in enumerate(self.read_all(num_workers, "Reading images")):
            images[number * _CHUNK : number * _CHUNK + len(chunk)] = chunk
            unreadable += found
        return LabelledImages(images, self.labels), unreadable

    def unreadable(self, num_workers: int) -> list[Unreadable]:
        """Read every image to find those that cannot be."""
        return [each for _, found in self.read_all(num_workers, "Checking images") for each in found]


def report_unreadable(found: list[Unreadable], total: int) -> str:
    """Say how many of ``total`` images cannot be read, and which and why."""
    reasons = listed([each.reason for each in found])
    return f"{len(found):,} of {total:,} images cannot be read: {reasons}"


class FileLoader(Batches):
    """Iterate over batches (images, labels) whose images are read, augmented and normalised in worker processes.

    A worker is told which images, and what to change in each; it makes the batch that `BatchLoader` makes of the same
    images in memory, bit for bit on a CPU.

    Args:
        pictures: Which files, and what their images are to be like.
        normalization: What is subtracted from each channel and what it is divided by, on the scale from 0 to 1.
        num_workers: Processes; 0 to read in this one.
        pin_memory: Put batches where a GPU copies them from at full speed.
        **kwargs: What `Batches` takes: batch size, order, augmentation, seed, share of this process.

    Raises:
        ValueError: If there are fewer images than processes.
    """

    def __init__(
        self,
        pictures: ImageFiles,
        *,
        normalization: tuple[tuple[float, ...], tuple[float, ...]],
        num_workers: int,
        pin_memory: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(pictures.labels, pictures.preprocessor.image_size, **kwargs)
        self.pictures = pictures
        make = partial(_make, pictures, self.augmentation, normalization)
        # Training goes through its files again and again; a validation's processes would only hold memory meanwhile.
        self._workers = Workers(make, num_workers, keep=self.shuffle, pin_memory=pin_memory)

    def batches(self, steps: list[Step]) -> Iterator[Batch]:
        """Make the batches of ``steps``, in their order, in memory.

        Raises:
            DataError: If a file cannot be read.
        """
        for images, labels, unreadable in self._workers.map(steps):
            if unreadable:
                raise DataError(report_unreadable(unreadable, len(labels)))
            yield images, labels


def _make(
    pictures: ImageFiles,
    augmentation: Augmentation | None,
    normalization: tuple[tuple[float, ...], tuple[float, ...]],
    step: Step,
) -> tuple[Tensor, Tensor, list[Unreadable]]:
    images, unreadable = pictures.read(step.indices)
    labels = pictures.labels[step.indices]
    return network_input(images, augmentation, step.draws, normalization), labels, unreadable


def pixel_statistics(
    part: LabelledImages | ImageFiles, seed: int, num_workers: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure the mean and the standard deviation of each channel, on at most 4,096 images.

    Sums are of integers, so that images in memory and images in files give the same numbers.

    Args:
        part: The images, at least one.
        seed: Decides which images, where there are more.
        num_workers: Processes that read files.

    Returns:
        Means and standard deviations, on the scale from 0 to 1; 1 for a channel that never changes.

    Raises:
        DataError: If a file cannot be read.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(part.labels), generator=generator)[:_MOST_MEASURED].sort().values
    total = squares = torch.zeros(1, dtype=torch.int64)
    count = 0
    for images in _chunks(part, chosen, num_workers):
        values = images.long()
        total = total + values.sum(dim=(0, 2, 3))
        squares = squares + (values * values).sum(dim=(0, 2, 3))
        count += values[:, 0].numel()
    mean = total.double() / count
    std = (squares.double() / count - mean * mean).clamp_min(0).sqrt() / 255
    return tuple((mean / 255).tolist()), tuple(torch.where(std > 0, std, 1.0).tolist())


def _chunks(part: LabelledImages | ImageFiles, chosen: Tensor, num_workers: int) -> Iterator[Tensor]:
    if isinstance(part, LabelledImages):
        yield from part.images[chosen].split(_CHUNK)
        return
    for images, unreadable in part.select(chosen).read_all(num_workers, "Measuring images"):
        if unreadable:
            raise DataError(report_unreadable(unreadable, len(chosen)))
        yield images
