"""RecordIO files of MXNet and insightface: ``train.rec`` and its index ``train.idx``, mapped into memory."""

import mmap
import struct
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arcface_pl.errors import DataError, expected, readable

MAGIC = struct.pack("<I", 0xCED7230A)
_LENGTH_BITS = 29
_HEADER = struct.Struct("<IfQQ")  # number of labels after the header (0: none), label, id, second id
_LABEL = struct.Struct("<f")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)  # what a piece is of its record
_CHUNK = 1 << 16
_LARGEST_CLASS = 1 << 24  # labels are float32, which holds no larger whole numbers exactly


class Record(NamedTuple):
    """One record.

    Attributes:
        labels: The header's label, or the labels after the header.
        content: What follows, such as an image file.
        has_list: Whether the labels are those after the header.
    """

    labels: tuple[float, ...]
    content: bytes
    has_list: bool


class RecordFile:
    """Random access to the records of a RecordIO file. Worker processes share the mapped file.

    Args:
        path: The ``.rec`` file; the index has the suffix ``.idx``.

    Raises:
        DataError: If a file cannot be read, the index is damaged, or it points outside the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys, self.offsets = _read_index(path.with_suffix(".idx"))
        size = len(self._bytes)
        outside = np.flatnonzero((self.offsets < 0) | (self.offsets > size - 8) | (self.offsets % 4 != 0))
        if len(outside):
            place = int(outside[0])
            accepted = f"a multiple of 4 within its {size:,} bytes"
            raise self._error(place, f"byte {self.offsets[place]}", accepted, "Copy both files again")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what each process maps for itself."""
        return {name: value for name, value in vars(self).items() if name not in ("_bytes", "_map")}

    def place_of(self, key: int) -> int | None:
        """Return the place of a key in :attr:`keys`, or None."""
        place = int(np.searchsorted(self.keys, key))
        return place if place < len(self.keys) and self.keys[place] == key else None

    def read(self, place: int) -> Record:
        """Read the record at a place of :attr:`keys`.

        Raises:
            DataError: If it is damaged.
        """
        payload = MAGIC.join(self._pieces(place))
        try:
            count, label, *_ = _HEADER.unpack_from(payload)
            end = _HEADER.size + count * _LABEL.size
            labels = struct.unpack_from(f"<{count}f", payload, _HEADER.size) if count <= len(payload) else None
        except struct.error:
            labels = None
        if labels is None:
            raise self._error(place, f"{len(payload)} bytes", "a header of 24 bytes and the labels it announces")
        return Record(labels or (label,), payload[end:], count > 0)

    def classes_of(self, places: np.ndarray) -> np.ndarray:
        """Return the class number of each record: its label, or the first of its labels.

        Args:
            places: (N,) int64, places in :attr:`keys`.

        Returns:
            (N,) int64.

        Raises:
            DataError: If a record is damaged, or its label is not a class number.
        """
        found = [self._labels(places[start : start + _CHUNK]) for start in range(0, len(places), _CHUNK)]
        labels = np.concatenate(found) if found else np.empty(0, np.float32)
        with np.errstate(invalid="ignore"):
            wrong = np.flatnonzero(~((labels >= 0) & (labels < _LARGEST_CLASS) & (labels == np.floor(labels))))
        if len(wrong):
            label = float(labels[wrong[0]])
            raise self._error(int(places[wrong[0]]), f"label {label:g}", "a whole number of at least 0")
        return labels.astype(np.int64)

    def lengths(self, places: np.ndarray) -> np.ndarray:
        """Return the bytes of the (first piece of the) record at each place, (N,) int64."""
        words = self._heads(places, 4, 4).view("<u4")[:, 0]
        return (words & ((1 << _LENGTH_BITS) - 1)).astype(np.int64)

    def _labels(self, places: np.ndarray) -> np.ndarray:
        """Read the labels of many records, without reading their images."""
        heads = self._heads(places, 0, 8 + _HEADER.size + _LABEL.size)
        words = heads.view("<u4")
        lengths, kinds = words[:, 1] & ((1 << _LENGTH_BITS) - 1), words[:, 1] >> _LENGTH_BITS
        has_list = words[:, 2] > 0
        labels = np.where(has_list, words[:, 8].view("<f4"), words[:, 3].view("<f4"))
        ends = self.offsets[places] + 8 + lengths
        plain = (words[:, 0] == struct.unpack("<I", MAGIC)[0]) & (kinds == _WHOLE) & (ends <= len(self._bytes))
        plain &= lengths >= _HEADER.size + _LABEL.size * words[:, 2].astype(np.int64)
        for each in np.flatnonzero(~plain):  # in pieces, or damaged, which raises
            labels[each] = self.read(int(places[each])).labels[0]
        return labels

    def _heads(self, places: np.ndarray, start: int, count: int) -> np.ndarray:
        at = self.offsets[places][:, None] + np.arange(start, start + count)
        return self._bytes[np.minimum(at, len(self._bytes) - 1)]

    def _pieces(self, place: int) -> Iterator[bytes]:
        at, following = int(self.offsets[place]), False
        while True:
            head = self._map[at : at + 8]
            if len(head) < 8 or head[:4] != MAGIC:
                raise self._error(place, f"{head[:4].hex() or 'its end'} at byte {at}", f"{MAGIC.hex()}")
            word = int.from_bytes(head[4:], "little")
            kind, length = word >> _LENGTH_BITS, word & ((1 << _LENGTH_BITS) - 1)
            if kind not in ((_MIDDLE, _LAST) if following else (_WHOLE, _FIRST)):
                accepted = "2 or 3 after a first piece" if following else "0 or 1 at the begin of a record"
                raise self._error(place, f"flag {kind} at byte {at}", accepted)
            piece = self._map[at + 8 : at + 8 + length]
            if len(piece) < length:
                raise self._error(place, f"{len(piece):,} bytes up to the end of the file", f"{length:,}")
            yield piece
            if kind in (_WHOLE, _LAST):
                return
            at, following = at + 8 + (length + 3) // 4 * 4, True

    def _error(self, place: int, got: str, accepted: str, remedy: str = "Copy the file again") -> DataError:
        return DataError(f"{self.path}, record {self.keys[place]}: got {got}; expected {accepted}. {remedy}")

    @cached_property
    def _map(self) -> mmap.mmap:
        # ValueError: an empty file
        with readable("data.root", self.path, "a RecordIO file", ValueError), self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def _bytes(self) -> np.ndarray:
        return np.frombuffer(self._map, np.uint8)


def _read_index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read an index: a line ``key<TAB>offset`` per record. Returns keys, sorted, and their offsets, int64."""
    accepted = "a line with a key and an offset per record"
    with readable("data.root", path, f"the index of the .rec file next to it, {path.name}"):
        content = path.read_bytes()
    try:
        text = content.decode("ascii")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of older releases over text that is not numbers
            numbers = np.fromstring(text, np.int64, sep=" ")
    except (ValueError, DeprecationWarning):
        raise DataError(expected(f"data.root {path}", "text that is not whole numbers", accepted)) from None
    lines = sum(1 for line in text.splitlines() if line.strip())
    if not lines or len(numbers) != 2 * lines:
        raise DataError(expected(f"data.root {path}", f"{len(numbers):,} numbers in {lines:,} lines", accepted))
    keys, offsets = numbers.reshape(-1, 2).T
    order = np.argsort(keys, kind="stable")
    keys, offsets = np.ascontiguousarray(keys[order]), np.ascontiguousarray(offsets[order])
    if not 0 <= keys[0] <= keys[-1] < 10**10:
        raise DataError(expected(f"data.root {path}", f"keys {keys[0]} to {keys[-1]}", "keys of 0 to 10 digits"))
    for name, values in (("key", keys), ("offset", np.sort(offsets))):
        if len(twice := np.flatnonzero(values[1:] == values[:-1])):
            raise DataError(expected(f"data.root {path}", f"{name} {values[twice[0]]} twice", "each once"))
    return keys, offsets
