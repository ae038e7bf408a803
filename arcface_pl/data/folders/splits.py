"""Read the parts of a data set whose images are files."""

import logging

import torch

from arcface_pl.data.folders.image_files import ImageFiles, Unreadable, report_unreadable
from arcface_pl.data.labelled import ReadImages
from arcface_pl.data.parts import Part
from arcface_pl.errors import DataError, printable

_LOG = logging.getLogger(__name__)


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
