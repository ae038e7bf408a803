"""Read Omniglot from its archives or unpacked folders, and its one-shot runs."""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arcface_pl.errors import DataError, expected

SIZE = 105
"""Height and width of the images, in pixels."""
DRAWERS = 20
"""Images per character, each by another person."""

_MEMBER = re.compile(r"([^/]+)/character(\d\d)/\d{4}_(\d\d)\.png")
_LABEL_LINE = re.compile(r"(?:.*/)?(run\d+)/test/(\w+)\.png\s+(?:.*/)?run\d+/training/(\w+)\.png")


class OneShotRun(NamedTuple):
    """A run of one-shot classification: each query is one of the characters of which one image is enrolled.

    Attributes:
        enrolled: Indices of the enrolled images, (K,) int64.
        queries: Indices of the images to classify, (Q,) int64.
        targets: Position in ``enrolled`` of each query's character, (Q,) int64.
    """

    enrolled: Tensor
    queries: Tensor
    targets: Tensor


def read_characters(folder: Path, part: str, alphabets: Mapping[str, int]) -> np.ndarray:
    """Read all images of a part, without unpacking its archive.

    Args:
        folder: Holds ``<part>.zip`` as published, or the unpacked folder ``<part>``.
        part: ``images_background`` or ``images_evaluation``.
        alphabets: Number of characters per alphabet.

    Returns:
        (N, 105, 105) bool, True for ink; by alphabet in the given order, character and drawer.

    Raises:
        DataError: If an image is missing or damaged.
    """
    files = _Files(folder, part)
    named = {found.groups(): name for name in files.names if (found := _MEMBER.search(name))}
    images = []
    for alphabet, count in alphabets.items():
        for character, drawer in ((a, b) for a in range(1, count + 1) for b in range(1, DRAWERS + 1)):
            name = named.get((alphabet, f"{character:02d}", f"{drawer:02d}"))
            if name is None:
                wanted = f"{alphabet}/character{character:02d}, drawn by {DRAWERS} people"
                raise DataError(expected(str(files.path), f"no image of drawer {drawer}", wanted))
            images.append(files.read_ink(name))
    return np.stack(images)


def read_runs(folder: Path, ink: np.ndarray) -> list[OneShotRun]:
    """Read the official one-shot runs.

    Args:
        folder: Holds ``all_runs.zip`` as published, or the unpacked folder ``all_runs``.
        ink: (N, 105, 105) bool, the images of the evaluation part, of which the runs hold copies.

    Returns:
        The runs in order, with indices into ``ink``.

    Raises:
        DataError: If a file is missing or damaged, or an image is not one of ``ink``.
    """
    files = _Files(folder, "all_runs")
    places = {np.packbits(image).tobytes(): index for index, image in enumerate(ink)}

    def place(name: str) -> int:
        index = places.get(np.packbits(files.read_ink(name)).tobytes())
        if index is None:
            raise DataError(expected(str(files.path), f"another image in {name}", "copies of images_evaluation only"))
        return index

    runs = []
    for listing in (name for name in files.names if name.endswith("/class_labels.txt")):
        base = listing.removesuffix("class_labels.txt")
        pairs = [
            found.groups()[1:]
            for found in map(_LABEL_LINE.fullmatch, files.read(listing).decode().splitlines())
            if found
        ]
        classes = sorted({training for _, training in pairs})
        if not classes:
            accepted = "runNN/test/itemNN.png runNN/training/classNN.png"
            raise DataError(expected(str(files.path), f"no pair of images in {listing}", accepted))
        enrolled = [place(f"{base}training/{each}.png") for each in classes]
        queries = [place(f"{base}test/{item}.png") for item, _ in pairs]
        runs.append(OneShotRun(*map(torch.tensor, (enrolled, queries, [classes.index(each) for _, each in pairs]))))
    if not runs:
        raise DataError(expected(str(files.path), "no class_labels.txt", "one per run"))
    return runs


def shrink(ink: np.ndarray, size: int, *, bold: bool) -> Tensor:
    """Resize images so that a pixel has the share of its area that is ink, however thin the stroke.

    Args:
        ink: (N, H, W) bool.
        size: Height and width of the result, in pixels.
        bold: Make strokes a pixel wider on each side first.

    Returns:
        (N, 1, size, size) uint8, 255 for ink.
    """
    down, across = (_overlaps(side, size) for side in ink.shape[1:])
    parts = []
    for chunk in torch.from_numpy(ink).split(1000):
        pixels = chunk.float()[:, None]
        if bold:
            pixels = torch.nn.functional.max_pool2d(pixels, 3, stride=1, padding=1)
        parts.append((255 * (down @ pixels @ across.T)).round().to(torch.uint8))
    return torch.cat(parts)


def _overlaps(side: int, size: int) -> Tensor:
    """Return the share of each of ``size`` intervals that each of ``side`` intervals covers, (size, side)."""
    ends = torch.arange(side + 1) / side
    marks = (torch.arange(size + 1) / size)[:, None]
    low, high = torch.maximum(ends[:-1], marks[:-1]), torch.minimum(ends[1:], marks[1:])
    return (high - low).clamp(min=0) * size


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}. Delete it and run again") from None


class _Files:
    """The files of ``<name>.zip``, or else of the folder ``<name>``, sorted by name."""

    def __init__(self, folder: Path, name: str) -> None:
        packed = folder / f"{name}.zip"
        self.path = packed if packed.is_file() else folder / name
        self.archive = None
        if self.path == packed:
            with _readable(self.path):
                self.archive = zipfile.ZipFile(packed)
        self.names = sorted(self._list())

    def read(self, name: str) -> bytes:
        with _readable(self.path):
            return self.archive.read(name) if self.archive else (self.path / name).read_bytes()

    def read_ink(self, name: str) -> np.ndarray:
        """Return an image, (105, 105) bool, True for ink."""
        content = self.read(name)
        try:
            with Image.open(io.BytesIO(content)) as image:
                paper = np.asarray(image.convert("L")) > 127
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{self.path}: {name} cannot be read: {error}") from None
        if paper.shape != (SIZE, SIZE):
            raise DataError(expected(f"{self.path}: {name}", f"{paper.shape} pixels", f"({SIZE}, {SIZE})"))
        return ~paper

    def _list(self) -> Iterator[str]:
        if self.archive is not None:
            yield from self.archive.namelist()
        else:
            with _readable(self.path):
                yield from (path.relative_to(self.path).as_posix() for path in self.path.rglob("*.*"))
