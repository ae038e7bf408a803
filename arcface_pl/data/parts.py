"""`Parts`: the images for training, validation and test, and those of the held-out classes."""

from typing import NamedTuple

import torch

from arcface_pl.data.agreement import fingerprint
from arcface_pl.data.classes import ClassSplit, take_classes
from arcface_pl.data.folders.image_files import ImageFiles
from arcface_pl.data.labelled import LabelledImages
from arcface_pl.data.split import stratified_split
from arcface_pl.seeding import derive_seed

Part = LabelledImages | ImageFiles


class Parts(NamedTuple):
    """The parts of a data set, as images in memory or as files.

    Attributes:
        fingerprint: Checksum of the contents. Equal fingerprints give equal batches.
        train: Training images.
        val: Validation images; may be empty.
        test: Test images.
        held_out_val: Training images of the held-out classes; may be empty.
        held_out_test: Test images of the held-out classes; may be empty.
    """

    fingerprint: str
    train: Part
    val: Part
    test: Part
    held_out_val: Part
    held_out_test: Part

    def to(self, device: torch.device) -> "Parts":
        """Move images in memory to a device."""
        return Parts(self.fingerprint, *(part.to(device) for part in self[1:]))


def split_parts(
    full: LabelledImages,
    test: LabelledImages,
    classes: ClassSplit,
    *,
    val_fraction: float,
    watch_test: bool,
    seed: int,
) -> Parts:
    """Separate the held-out classes, and split off the same fraction of every other class for validation.

    Args:
        full: Images for training and validation.
        test: Test images.
        classes: The trained and the held-out classes.
        val_fraction: Fraction of ``full`` for validation, in [0, 1).
        watch_test: Validate on the test images.
        seed: Seed of the split.

    Returns:
        The parts.
    """
    unseen = [take_classes(part, classes.held_out) for part in (full, test)]
    full, test = (take_classes(part, classes.trained) for part in (full, test))
    train, val = stratified_split(full.labels, val_fraction, derive_seed(seed, "split"))
    parts = (full.select(train), test if watch_test else full.select(val), test, *unseen)
    return Parts(fingerprint(parts), *parts)
