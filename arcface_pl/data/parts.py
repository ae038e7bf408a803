"""`Parts`: the images for training, validation and test, and those of the held-out classes."""

import logging
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch

from arcface_pl.data.agreement import MOST_COUNTED
from arcface_pl.data.classes import ClassSplit, take_classes
from arcface_pl.data.folders.image_files import ImageFiles, Unreadable, report_unreadable
from arcface_pl.data.labelled import LabelledImages, ReadImages
from arcface_pl.data.split import stratified_split
from arcface_pl.errors import DataError, expected, printable
from arcface_pl.seeding import derive_seed

_LOG = logging.getLogger(__name__)

Part = LabelledImages | ImageFiles
FEWEST_PAIRS = 1000  # of different classes: the default false accept rate is 0.001


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

    def counts(self, num_classes: int) -> dict[str, list[int]]:
        """Count the images of each part, of few classes by class: what differs where fingerprints do."""
        by_class = {"train": self.train, "val": self.val, "test": self.test} if num_classes <= MOST_COUNTED else {}
        totals = {name: [len(part.labels)] for name, part in zip(self._fields[1:], self[1:], strict=True)}
        return totals | {
            name: torch.bincount(part.labels, minlength=num_classes).tolist() for name, part in by_class.items()
        }

    def check_labels(self, num_classes: int, num_held_out: int) -> None:
        """Check that all labels are classes.

        Raises:
            DataError: If one is out of range.
        """
        for name, part in zip(self._fields[1:], self[1:], strict=True):
            count = num_held_out if name.startswith("held_out") else num_classes
            wrong = part.labels[(part.labels < 0) | (part.labels >= count)]
            if len(wrong):
                raise DataError(expected(f"labels of the {name} images", int(wrong[0]), f"0 to {count - 1}"))


def shortages(parts: Parts, *, watch_test: bool, given: Collection[str] = ()) -> list[str]:
    """Name what the validation and test images are too few for, with the setting that mends it.

    Args:
        parts: The images.
        watch_test: Whether validation uses the test images: there is then no threshold whatever their number.
        given: "val" and "test" where the data set has its own images for them: fractions do not apply then.
    """

    def share(wanted: float, *chosen: Part) -> float:
        """Return the share of the parts that gives a class two images, and all together that many."""
        labels = torch.cat([part.labels for part in chosen])
        return min(0.5, math.ceil(100 * max(2 / int(torch.bincount(labels).max()), wanted / len(labels))) / 100)

    found = []
    lacks = "verification and retrieval cannot be measured on them"
    unseen = torch.bincount(parts.held_out_val.labels)
    if not watch_test and (len(unseen) < 2 or int(unseen.max()) < 2):
        pairs, unlike = _pairs(parts.val)
        enough = share(math.sqrt(2.2 * FEWEST_PAIRS), parts.train, parts.val)
        split_off = f"Set data.val_fraction {enough:g}, or"
        remedy = f"{'Add validation images, or set' if 'val' in given else split_off} data.held_out_classes 0.2"
        if not len(parts.val.labels):
            found.append(f"no validation image: there is no best checkpoint and no threshold. {remedy}")
        elif not pairs or not unlike:
            few = "no two validation images are of one class" if not pairs else "all validation images are of one class"
            found.append(f"{few}: {lacks}, and there is no threshold that tells unknown classes from known. {remedy}")
        elif unlike < FEWEST_PAIRS:
            few = f"only {unlike:,} pairs of validation images of different classes"
            found.append(f"{few}: a false accept rate below 1 in {unlike:,} is a guess. {remedy}")
    if len(parts.test.labels) and not _pairs(parts.test)[0]:
        enough = share(0, parts.train, parts.val, parts.test)
        remedy = "Add test images" if "test" in given else f"Set data.test_fraction {enough:g}, or add test images"
        found.append(f"no two test images are of one class: {lacks}. {remedy}")
    return found


def small_classes(train: Part, images_per_class: int | None) -> list[str]:
    """Name the trained classes that have too few images for ``data.images_per_class`` different ones in a batch."""
    counts = torch.bincount(train.labels)
    few = int(((counts > 0) & (counts < (images_per_class or 0))).sum())
    if not few:
        return []
    fewest = int(counts[counts > 0].min())
    which = f"{few:,} of {int((counts > 0).sum()):,} classes"
    fault = f"{which} have fewer than {images_per_class} training images: a batch repeats them to fill their groups"
    return [f"{fault}. Set data.images_per_class {fewest}" if fewest > 1 else fault]


def _pairs(part: Part) -> tuple[int, int]:
    """Count the pairs of one class and of different classes."""
    counts = torch.bincount(part.labels)
    same = int((counts * (counts - 1)).sum()) // 2
    return same, len(part.labels) * (len(part.labels) - 1) // 2 - same


def divide(
    given: Mapping[str, Part],
    classes: ClassSplit,
    *,
    val_fraction: float,
    watch_test: bool,
    seed: int,
    test_fraction: float = 0.0,
) -> list[Any]:
    """Split off validation and test images where they are not given, and separate the held-out classes.

    Args:
        given: Images by the names train, and optionally val and test.
        classes: The trained and the held-out classes.
        val_fraction: Fraction of the training images of every trained class for validation, in [0, 1).
        watch_test: Validate on the test images.
        seed: Seed of the splits.
        test_fraction: Fraction of all images for the test, where it is not given, in (0, 1).

    Returns:
        Images for training, validation and test, then the held-out classes' training and test images.
    """

    def split_off(whole: Part, fraction: float, name: str) -> tuple[Part, Part]:
        first, second = stratified_split(whole.labels, fraction, derive_seed(seed, name))
        return whole.select(first), whole.select(second)

    def take(whole: Part, labels: list[int]) -> Part:
        if isinstance(whole, ImageFiles):
            return whole._replace(files=take_classes(whole.files, labels))
        return take_classes(whole, labels)

    full = given["train"]
    full, test = (full, given["test"]) if "test" in given else split_off(full, test_fraction, "test split")
    train = take(full, classes.trained)
    if "val" in given:
        val = take(given["val"], classes.trained)
    else:
        train, val = split_off(train, val_fraction, "split")
    seen = take(test, classes.trained)
    unseen = [take(part, classes.held_out) for part in (full, test)]
    return [train, seen if watch_test else val, seen, *unseen]


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
