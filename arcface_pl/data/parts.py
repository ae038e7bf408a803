"""The parts of a data set: for training, validation and test, and the held-out classes' training and test images."""

from typing import NamedTuple

import torch

from arcface_pl.data.agreement import fingerprint
from arcface_pl.data.classes import ClassSplit, take_classes
from arcface_pl.data.folders.image_files import ImageFiles
from arcface_pl.data.labelled import LabelledImages
from arcface_pl.data.split import stratified_split
from arcface_pl.seeding import derive_seed

__all__ = ["Part", "Parts", "split_parts"]

Part = LabelledImages | ImageFiles


class Parts(NamedTuple):
    """What is trained on, validated on and tested on, and the same of held-out classes: images in memory, or files.

    Attributes:
        fingerprint: Checksum of what they hold: where it differs, batches would.
        train: For training.
        val: For validation; may be empty.
        test: For the test.
        held_out_val: Training images of the classes that are held out; may be empty.
        held_out_test: Their test images; may be empty.
    """

    fingerprint: str
    train: Part
    val: Part
    test: Part
    held_out_val: Part
    held_out_test: Part

    def to(self, device: torch.device) -> "Parts":
        """Move images to a device; files stay where they are."""
        parts = (self.train, self.val, self.test, self.held_out_val, self.held_out_test)
        return Parts(self.fingerprint, *(part.to(device) for part in parts))


def split_parts(
    full: LabelledImages,
    test: LabelledImages,
    classes: ClassSplit,
    *,
    val_fraction: float,
    watch_test: bool,
    seed: int,
) -> Parts:
    """Set held-out classes aside, and of the others the same share of every class for validation.

    Args:
        full: What is there for training and validation.
        test: The test images.
        classes: Which are trained on, and which are held out.
        val_fraction: Share of ``full`` for validation, in [0, 1).
        watch_test: Validate on the test images.
        seed: Decides which images go where.

    Returns:
        The parts.
    """
    unseen = [take_classes(part, classes.held_out) for part in (full, test)]
    full, test = (take_classes(part, classes.trained) for part in (full, test))
    train, val = stratified_split(full.labels, val_fraction, derive_seed(seed, "split"))
    parts = (full.select(train), test if watch_test else full.select(val), test, *unseen)
    return Parts(fingerprint(parts), *parts)
