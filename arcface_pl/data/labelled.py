"""Images and their labels, as every reader returns them and every loader takes them."""

import os
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LabelledFiles", "LabelledImages", "list_files"]


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


class LabelledFiles(NamedTuple):
    """Image files and their labels.

    Names lie in one tensor, which worker processes share: of a list of str each of them would soon have a copy, since
    Python counts references where the strings are.

    Attributes:
        text: All names one after the other, uint8.
        ends: Where each name ends in ``text``, int64.
        sizes: Bytes of each file, int64; -1 where it could not be asked for.
        rows: Which names these files have, (N,) int64.
        labels: (N,) int64.
    """

    text: Tensor
    ends: Tensor
    sizes: Tensor
    rows: Tensor
    labels: Tensor

    def select(self, indices: Tensor) -> "LabelledFiles":
        """Take the files at ``indices``, in that order; the names are not copied."""
        return self._replace(rows=self.rows[indices], labels=self.labels[indices])

    def names(self, indices: Tensor) -> list[str]:
        """Name the files at ``indices``, relative to the folder that was searched."""
        rows = self.rows[indices].tolist()
        spans = [(int(self.ends[row - 1]) if row else 0, int(self.ends[row])) for row in rows]
        return [os.fsdecode(self.text[start:end].numpy().tobytes()) for start, end in spans]


def list_files(entries: Iterable[tuple[str, int, int]]) -> LabelledFiles:
    """Make labelled files from their names, sizes and labels.

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
