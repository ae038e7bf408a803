"""Find, split and read the images of a folder."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from arcface_pl.data.classes import ClassSplit, take_classes
from arcface_pl.data.folders.image_files import ImageFiles, Unreadable, report_unreadable
from arcface_pl.data.folders.tree import class_folders, find_images, split_folders
from arcface_pl.data.labelled import ReadImages
from arcface_pl.data.parts import Part
from arcface_pl.data.split import stratified_split
from arcface_pl.errors import DataError, printable
from arcface_pl.preprocessing import Preprocessor
from arcface_pl.seeding import derive_seed

_LOG = logging.getLogger(__name__)


def find_parts(
    root: Path,
    class_names: Sequence[str],
    classes: ClassSplit,
    framing: Preprocessor,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> list[ImageFiles]:
    """Find all images below a folder, and split them unless train, val and test folders do.

    Args:
        root: Folder with the class folders, or with train and optionally val and test.
        class_names: Names of all classes, in label order.
        classes: The trained and the held-out classes.
        framing: Preprocessing of the images.
        val_fraction: Fraction of the training images for validation, in [0, 1).
        test_fraction: Fraction of all images for the test, in (0, 1).
        seed: Seed of the splits.

    Returns:
        Images for training, validation and test, then the held-out classes' training and test images.

    Raises:
        DataError: If a folder cannot be read, or validation or test have a class that training lacks.
    """
    given = split_folders(root)

    def find(folder: Path) -> ImageFiles:
        return ImageFiles(root, find_images(root, class_folders(folder, warn=True), list(class_names)), framing)

    def divide(whole: ImageFiles, fraction: float, name: str) -> tuple[ImageFiles, ImageFiles]:
        first, second = stratified_split(whole.labels, fraction, derive_seed(seed, name))
        return whole.select(first), whole.select(second)

    def take(whole: ImageFiles, labels: list[int]) -> ImageFiles:
        return whole._replace(files=take_classes(whole.files, labels))

    full = find(given.get("train", root))
    full, test = (full, find(given["test"])) if "test" in given else divide(full, test_fraction, "test split")
    train = take(full, classes.trained)
    train, val = (
        (train, take(find(given["val"]), classes.trained)) if "val" in given else divide(train, val_fraction, "split")
    )
    return [train, val, take(test, classes.trained), *(take(part, classes.held_out) for part in (full, test))]


def read_parts(found: list[ImageFiles], resident: bool, num_workers: int, skip_unreadable: bool) -> list[Part]:
    """Read all parts into memory, or only check that their files can be read.

    Args:
        found: The parts.
        resident: Return the images instead of the files.
        num_workers: Number of processes that read.
        skip_unreadable: Leave out unreadable files with a warning.

    Returns:
        The parts, without unreadable files.

    Raises:
        DataError: If a file cannot be read and ``skip_unreadable`` is off.
    """
    parts: list[Part] = []
    unreadable: list[Unreadable] = []
    for part in found:
        images, bad = part.load(num_workers) if resident else (None, part.unreadable(num_workers))
        kept = torch.ones(len(part.labels), dtype=torch.bool)
        kept[torch.tensor([each.place for each in bad], dtype=torch.int64)] = False
        whole: Part = part if images is None else ReadImages.of(images, part)
        parts.append(whole.select(kept.nonzero().flatten()) if bad else whole)
        unreadable += bad
    if unreadable:
        message = report_unreadable(unreadable, sum(len(part.labels) for part in found))
        if not skip_unreadable:
            raise DataError(f"{message}. To leave them out, set skip_unreadable: true")
        _LOG.warning("%s. They are left out.", printable(message))
    return parts
