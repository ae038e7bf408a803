"""Split and read images in files."""

import logging

import torch

from arcface_pl.data.classes import ClassSplit, take_classes
from arcface_pl.data.folders.image_files import ImageFiles, Unreadable, report_unreadable
from arcface_pl.data.labelled import ReadImages
from arcface_pl.data.parts import Part
from arcface_pl.data.split import stratified_split
from arcface_pl.errors import DataError, printable
from arcface_pl.seeding import derive_seed

_LOG = logging.getLogger(__name__)


def divide(
    given: dict[str, ImageFiles],
    classes: ClassSplit,
    *,
    val_fraction: float,
    test_fraction: float,
    watch_test: bool,
    seed: int,
) -> list[ImageFiles]:
    """Split off validation and test images where they are not given, and separate the held-out classes.

    Args:
        given: Images by the names train, and optionally val and test.
        classes: The trained and the held-out classes.
        val_fraction: Fraction of the training images for validation, in [0, 1).
        test_fraction: Fraction of all images for the test, in (0, 1).
        watch_test: Validate on the test images.
        seed: Seed of the splits.

    Returns:
        Images for training, validation and test, then the held-out classes' training and test images.
    """

    def split_off(whole: ImageFiles, fraction: float, name: str) -> tuple[ImageFiles, ImageFiles]:
        first, second = stratified_split(whole.labels, fraction, derive_seed(seed, name))
        return whole.select(first), whole.select(second)

    def take(whole: ImageFiles, labels: list[int]) -> ImageFiles:
        return whole._replace(files=take_classes(whole.files, labels))

    full = given["train"]
    full, test = (full, given["test"]) if "test" in given else split_off(full, test_fraction, "test split")
    train = take(full, classes.trained)
    if "val" in given:
        val = take(given["val"], classes.trained)
    else:
        train, val = split_off(train, val_fraction, "split")
    seen = take(test, classes.trained)
    return [train, seen if watch_test else val, seen, *(take(part, classes.held_out) for part in (full, test))]


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
            raise DataError(f"{message}. To leave them out, set data.skip_unreadable true")
        _LOG.warning("%s. They are left out.", printable(message))
    return parts
