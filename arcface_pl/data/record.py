"""`RecordDataModule`: images in a RecordIO file, as MXNet and insightface write them."""

import logging
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arcface_pl.data.files import ImageFilesDataModule
from arcface_pl.data.folders.record_file import RecordFile
from arcface_pl.data.labelled import LabelledFiles
from arcface_pl.errors import DataError, expected, printable

_LOG = logging.getLogger(__name__)
_DIGITS = 10  # of a key as the name of an image


class RecordDataModule(ImageFilesDataModule):
    """Images in ``train.rec`` with the index ``train.idx`` and, optionally, ``property``: insightface's data sets.

    The file is mapped into memory and read at random, by any number of worker processes. Classes are the labels of the
    records; validation and test images are split off by seed.

    Args:
        root: Folder of these files, or a ``.rec`` file.
        **kwargs: Arguments of `ImageFilesDataModule` and `ImageDataModule`.

    Raises:
        ValueError: If a value is out of range.
        DataError: If a file is missing or damaged, or a label is not a class of ``property``; names the record.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        root = str(root)  # a checkpoint cannot hold a Path
        given = Path(root).expanduser()
        self.root = given / "train.rec" if given.is_dir() else given
        super().__init__(**kwargs)

    @property
    def dataset_name(self) -> str:
        """Name of the folder; of the file, if it is not ``train.rec``."""
        return self.root.resolve().parent.name if self.root.name == "train.rec" else self.root.stem

    @cached_property
    def _records(self) -> RecordFile:
        if self.root.suffix != ".rec" or not self.root.is_file():
            accepted = "a folder with train.rec and train.idx, or a .rec file"
            raise DataError(expected("data.root", str(self.hparams["root"]), accepted))
        return RecordFile(self.root)

    @cached_property
    def _images(self) -> tuple[np.ndarray, np.ndarray]:
        """Place of each image in the file, and its class number."""
        records, places = self._records, np.arange(len(self._records.keys))
        zero = records.place_of(0)
        about = None if zero is None else records.read(zero)
        if about is not None and about.has_list:  # record 0 describes the others: images first, then identities
            end, keys = about.labels[0], records.keys
            if not (1 < end <= keys[-1] + 1):  # NaN as well
                accepted = f"the key after the last image, at most {keys[-1] + 1}"
                raise DataError(expected(f"{self.root}, record 0: first identity", f"{end:g}", accepted))
            places = np.flatnonzero((keys >= 1) & (keys < end))
            if len(places) != int(end) - 1:
                got = f"{len(places):,} of the keys 1 to {int(end) - 1}"
                raise DataError(expected(f"{self.root.with_suffix('.idx')}", got, "all of them, the images"))
        return places, records.classes_of(places)

    @cached_property
    def all_class_names(self) -> list[str]:
        """Class numbers of the records as text, in ascending order."""
        numbers, promised = np.unique(self._images[1]), self._promised_classes()
        if len(numbers) < 2:
            raise DataError(expected(f"data.root {self.root}", f"{len(numbers)} class", "two or more classes"))
        if promised is not None and numbers[-1] >= promised:
            first = int(self._images[0][np.argmax(self._images[1] >= promised)])
            place = f"{self.root}, record {self._records.keys[first]}: label"
            raise DataError(expected(place, int(numbers[-1]), f"0 to {promised - 1}, the classes in property"))
        if promised is not None and len(numbers) < promised:
            _LOG.warning(
                "%s: %d of its %d classes have no image", printable(self.root), promised - len(numbers), promised
            )
        return [str(number) for number in numbers]

    def _promised_classes(self) -> int | None:
        """Return the number of classes in ``property``: one line of classes, height and width; None without it."""
        path = self.root.with_name("property")
        if not path.is_file():
            return None
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        words = text.split(",")
        if len(words) != 3 or not all(word.strip().isdecimal() and len(word) < _DIGITS for word in words):
            raise DataError(
                expected(f"data.root {path}", text[:80], "number of classes, height and width, as 10,112,112")
            )
        return int(words[0])

    def list_files(self) -> dict[str, LabelledFiles]:
        """List the images by their keys."""
        places, numbers = self._images
        keys = self._records.keys[places]
        labels = np.searchsorted(np.array([int(name) for name in self.all_class_names]), numbers)
        digits = keys[:, None] // 10 ** np.arange(_DIGITS - 1, -1, -1) % 10 + ord("0")  # as text, all at once
        files = LabelledFiles(
            torch.from_numpy(digits.astype(np.uint8).ravel()),
            torch.arange(1, len(keys) + 1) * _DIGITS,
            torch.from_numpy(self._records.lengths(places)),
            torch.arange(len(keys)),
            torch.from_numpy(labels),
        )
        return {"train": files}

    @property
    def contents(self) -> Any:
        """Reader of an image by its name."""
        return partial(_read, self._records)


def _read(records: RecordFile, name: str) -> bytes:
    place = records.place_of(int(name))
    assert place is not None, name
    return records.read(place).content
