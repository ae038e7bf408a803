"""Image files read as square uint8 images, in this process or in worker processes."""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from arcface_pl.data.augment import Augmentation, ImageChange
from arcface_pl.data.epochs import Batch, Batches, Step
from arcface_pl.data.folders.workers import Workers
from arcface_pl.data.labelled import LabelledFiles, LabelledImages
from arcface_pl.data.loader import network_input
from arcface_pl.errors import DataError, listed
from arcface_pl.preprocessing import ImageError, Normalization, Preprocessor

_CHUNK = 64  # images that a worker reads at once where no batch is asked for
_MOST_MEASURED = 4096


class Unreadable(NamedTuple):
    """An image file that cannot be read.

    Attributes:
        place: Index of the file.
        reason: Its name and what is wrong with it.
    """

    place: int
    reason: str


class ImageFiles(NamedTuple):
    """Image files and how to preprocess them.

    Attributes:
        root: Folder that file names are relative to.
        files: The files and their labels.
        preprocessor: Preprocessing of the images.
        listing: Name of the table that lists the files, and the numbers of its rows; None for no table.
        contents: Returns the content of an image by its name, where ``root`` is one file that holds them all.
    """

    root: Path
    files: LabelledFiles
    preprocessor: Preprocessor
    listing: tuple[str, Tensor] | None = None
    contents: Callable[[str], bytes] | None = None

    @property
    def labels(self) -> Tensor:
        """Labels of the files, (N,) int64."""
        return self.files.labels

    @property
    def images(self) -> Tensor:
        """All images, (N, C, H, W) uint8, read on access; black if a file cannot be read."""
        return self.load(num_workers=0)[0].images

    @property
    def num_bytes(self) -> int:
        """Memory that all images would take, in bytes."""
        return len(self.labels) * self._shape.numel()

    @property
    def _shape(self) -> torch.Size:
        size = self.preprocessor.image_size
        return torch.Size((self.preprocessor.in_channels, size, size))

    def to(self, device: torch.device) -> "ImageFiles":
        """Return the files: they are read on the CPU."""
        return self

    def select(self, indices: Tensor) -> "ImageFiles":
        """Select files by index, in that order."""
        return self._replace(files=self.files.select(indices))

    def source(self, name: str) -> Path | bytes:
        """Return what to read an image from: its path, or its content."""
        return self.root / name if self.contents is None else self.contents(name)

    def read(self, indices: Tensor) -> tuple[Tensor, list[Unreadable]]:
        """Read the images at ``indices``.

        Args:
            indices: (B,) int64.

        Returns:
            (B, C, H, W) uint8, black if a file cannot be read, and the unreadable files.
        """
        images = torch.zeros(len(indices), *self._shape, dtype=torch.uint8)
        unreadable = []
        for place, (index, name) in enumerate(zip(indices.tolist(), self.files.names(indices), strict=True)):
            path = self.root / name
            try:
                images[place] = self.preprocessor.read(self.source(name))
            except (ImageError, DataError) as error:
                reason = str(error) if str(self.root) in str(error) else f"{path}: {error}"
                if self.listing is not None:
                    reason = f"{self.listing[0]}, row {int(self.listing[1][self.files.rows[index]])}: {reason}"
                unreadable.append(Unreadable(index, reason))
        return images, unreadable

    def read_all(self, num_workers: int, purpose: str) -> Iterable[tuple[Tensor, list[Unreadable]]]:
        """Read all images in order, in chunks as from :meth:`read`, with a progress bar labelled ``purpose``."""
        chunks = torch.arange(len(self.labels)).split(_CHUNK)
        # A process that is started costs more than a chunk, and there is none for each of more processes
        read = Workers(self.read, min(num_workers, len(chunks)) if len(chunks) > 1 else 0).map(chunks)
        console = Console(stderr=True)
        if not console.is_terminal or os.environ.get("LOCAL_RANK", "0") != "0":
            return read  # rich's `disable` still prints an empty line in old releases
        return track(
            read,
            purpose,
            total=len(chunks),
            console=console,
            transient=True,
            auto_refresh=False,  # the thread that refreshes would be forked into the workers
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
        """Read every image to find the unreadable files."""
        return [each for _, found in self.read_all(num_workers, "Checking images") for each in found]


def report_unreadable(found: list[Unreadable], total: int) -> str:
    """Describe how many of ``total`` images cannot be read, which and why."""
    reasons = listed([each.reason for each in found])
    return f"{len(found):,} of {total:,} images cannot be read: {reasons}"


class FileLoader(Batches):
    """Iterate over batches (images, labels) that are read, augmented and normalized in worker processes.

    Workers get the indices and the random parameters of each batch. On a CPU, batches are bit-identical to those of
    `BatchLoader` with the same images in memory. A GPU gets the images as uint8, a quarter of the bytes, and augments
    and normalizes them itself, as it does those in its memory; a ``data.transform`` stays in the workers.

    Args:
        pictures: The files and their preprocessing.
        normalization: Mean, standard deviation and order of the channels.
        num_workers: Number of processes; 0 to read in this one.
        device: The GPU of the batches; None leaves them on the CPU.
        **kwargs: Arguments of `Batches`: batch size, order, augmentation, seed, rank.

    Raises:
        ValueError: If there are fewer images than processes.
    """

    def __init__(
        self,
        pictures: ImageFiles,
        *,
        normalization: Normalization,
        num_workers: int,
        device: torch.device | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pictures.labels, pictures.preprocessor.image_size, **kwargs)
        self.pictures, self.normalization, self.device = pictures, normalization, device
        self._finishes = device is not None and isinstance(self.augmentation, Augmentation | None)
        pins = device is not None and device.type == "cuda"
        make = partial(_read if self._finishes else _make, pictures, self.augmentation, normalization)
        # Processes are kept for training only: those of validation would hold memory in between.
        self._workers = Workers(make, num_workers, keep=self.shuffle, pin_memory=pins)

    def batches(self, steps: list[Step]) -> Iterator[Batch]:
        """Make the batches of ``steps``, in order.

        Raises:
            DataError: If a file cannot be read.
        """
        for images, labels, draws, unreadable in self._workers.map(steps):
            if unreadable:
                remedy = "data.check_files true finds such files before training"
                raise DataError(f"{report_unreadable(unreadable, len(labels))}. {remedy}")
            if self.device is not None:
                images, labels = (each.to(self.device, non_blocking=True) for each in (images, labels))
            if self._finishes:
                draws = None if draws is None else draws.to(self.device, non_blocking=True)
                images = network_input(images, self.augmentation, draws, self.normalization)
            yield images, labels


_Made = tuple[Tensor, Tensor, Tensor | None, list[Unreadable]]


def _read(pictures: ImageFiles, augmentation: ImageChange | None, normalization: Normalization, step: Step) -> _Made:
    """Read the images of a step; what else is to be done needs its draws."""
    images, unreadable = pictures.read(step.indices)
    return images, pictures.labels[step.indices], step.draws, unreadable


def _make(pictures: ImageFiles, augmentation: ImageChange | None, normalization: Normalization, step: Step) -> _Made:
    """Read, augment and normalize the images of a step."""
    images, labels, draws, unreadable = _read(pictures, augmentation, normalization, step)
    return network_input(images, augmentation, draws, normalization), labels, None, unreadable


def pixel_statistics(
    part: LabelledImages | ImageFiles, seed: int, num_workers: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure the mean and standard deviation of each channel on at most 4,096 images.

    Sums are integers, so that images in memory and in files give exactly the same result.

    Args:
        part: The images, at least one.
        seed: Seed of the sample, if there are more.
        num_workers: Number of processes that read files.

    Returns:
        Means and standard deviations, on a scale of 0 to 1; 1 for a constant channel.

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
