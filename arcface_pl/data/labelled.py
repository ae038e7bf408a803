"""Labelled images in memory and in files: the result of every reader, and the input of every loader."""

import os
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor


class LabelledImages(NamedTuple):
    """Images in memory and their labels, on one device.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
    """

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "LabelledImages":
        """Move both to a device, without copying if they are there already."""
        return LabelledImages(self.images.to(device), self.labels.to(device))

    def select(self, indices: Tensor) -> "LabelledImages":
        """Select images by index, in that order."""
        return LabelledImages(self.images[indices], self.labels[indices])


class ReadImages(LabelledImages):
    """Images in memory that were read from files.

    Attributes:
        source: The files, one per image: an `ImageFiles`.
    """

    source: Any

    @classmethod
    def of(cls, images: LabelledImages, source: Any) -> Self:
        """Attach the files to images."""
        made = cls(*images)
        made.source = source
        return made

    def to(self, device: torch.device) -> "ReadImages":
        """Move images and labels to a device, without copying if they are there already."""
        return self.of(super().to(device), self.source)

    def select(self, indices: Tensor) -> "ReadImages":
        """Select images by index, in that order."""
        return self.of(super().select(indices), self.source.select(indices.cpu()))


class LabelledFiles(NamedTuple):
    """Image files and their labels.

    Names are stored in one tensor, which worker processes share. A list of str would be copied into each of them,
    since reference counts are stored next to the strings.

    Attributes:
        text: All names, concatenated, uint8.
        ends: End of each name in ``text``, int64.
        sizes: Bytes of each file, int64; -1 if unknown.
        rows: Index of each file's name, (N,) int64.
        labels: (N,) int64.
    """

    text: Tensor
    ends: Tensor
    sizes: Tensor
    rows: Tensor
    labels: Tensor

    def select(self, indices: Tensor) -> "LabelledFiles":
        """Select files by index, in that order, without copying the names."""
        return self._replace(rows=self.rows[indices], labels=self.labels[indices])

    def names(self, indices: Tensor) -> list[str]:
        """Return the names of the files at ``indices``, relative to the folder that was searched."""
        rows = self.rows[indices].tolist()
        spans = [(int(self.ends[row - 1]) if row else 0, int(self.ends[row])) for row in rows]
        return [os.fsdecode(self.text[start:end].numpy().tobytes()) for start, end in spans]


def size_of(path: str | os.PathLike[str]) -> int:
    """Return the bytes of a file; -1 for a missing one or a dangling link, reported with the unreadable files."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def list_files(entries: Iterable[tuple[str, int, int]]) -> LabelledFiles:
    """Make `LabelledFiles` from names, sizes and labels.

    Args:
        entries: Name, bytes, and label of each file.

    Returns:
        The files, in that order.
    """
    text, ends, sizes, labels = bytearray(), [], [], []
    for name, size, label in entries:
        text += os.fsencode(name)
        ends.append(len(text))
        sizes.append(size)
        labels.append(label)
    return LabelledFiles(
        torch.frombuffer(text, dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8),
        torch.tensor(ends, dtype=torch.int64),
        torch.tensor(sizes, dtype=torch.int64),
        torch.arange(len(ends)),
        torch.tensor(labels, dtype=torch.int64),
    )
