"""Read lists of image pairs, in the usual formats of face verification."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.errors import DataError, expected, readable

_FORMATS = (
    "'name 1 2' for two images of one person and 'name 1 other 2' for images of two, under a first line with the "
    "number of folds and of pairs of each kind in a fold; or 'path path 1' and 'path path 0' without such a line"
)
_MOST_FOLDS = 10


class ListedPair(NamedTuple):
    """One line of a list of pairs.

    Attributes:
        first: An image: a path, or a name and a number.
        second: The other image.
        is_genuine: Whether both are of the same class.
        line: Line number, from 1.
    """

    first: str | tuple[str, int]
    second: str | tuple[str, int]
    is_genuine: bool
    line: int


class PairList(NamedTuple):
    """A list of pairs.

    Attributes:
        pairs: The pairs, in file order.
        folds: Fold of each pair, (P,) int64, from 0.
    """

    pairs: list[ListedPair]
    folds: Tensor


def read_pairs(path: Path) -> PairList:
    """Read a list of pairs.

    A list of Labeled Faces in the Wild begins with the number of folds and of pairs of each kind per fold (pairs.txt),
    or with the number of pairs of each kind (pairsDevTest.txt). Other lists have a line ``path path 1`` per genuine
    pair and ``path path 0`` per impostor pair. Fields are separated by tabs, or by spaces in lines without tabs; empty
    lines and lines that start with # are skipped. If the list has no folds, pairs of each kind are dealt into ten.

    Args:
        path: The file, in UTF-8.

    Returns:
        The pairs.

    Raises:
        DataError: If the file cannot be read, a line has another format, or the number of pairs differs from the first
            line.
    """
    lines = _lines(path)
    number, header = lines[0]
    if not all(map(_is_number, header)) or len(header) > 2:
        pairs = [_path_pair(path, *line) for line in lines]
        return PairList(pairs, dealt_folds(torch.tensor([pair.is_genuine for pair in pairs])))
    num_folds, num_each = (1, int(header[0])) if len(header) == 1 else map(int, header)
    pairs = [_name_pair(path, *line) for line in lines[1:]]
    if len(pairs) != 2 * num_folds * num_each or not pairs:
        raise DataError(
            f"{path}, line {number}: says {num_folds} x {num_each} pairs of each kind, but {len(pairs):,} pairs follow"
        )
    genuine = torch.tensor([pair.is_genuine for pair in pairs])
    folds = torch.arange(len(pairs)) // (2 * num_each)
    for fold, count in enumerate(torch.bincount(folds[genuine], minlength=num_folds).tolist()):
        if count != num_each:
            begin = pairs[2 * num_each * fold].line
            raise DataError(f"{path}, line {begin}: fold {fold + 1} has {count} pairs of one person, says {num_each}")
    return PairList(pairs, folds if num_folds > 1 else dealt_folds(genuine))


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        with readable("data.pairs_file", path, "a list of pairs"):
            text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"data.pairs_file {path}: not UTF-8 text; expected {_FORMATS}") from None
    lines = [
        (number, [word.strip() for word in (line.split("\t") if "\t" in line.strip() else line.split())])
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise DataError(f"data.pairs_file {path}: has no pairs; expected {_FORMATS}")
    return lines


def _path_pair(path: Path, line: int, words: list[str]) -> ListedPair:
    if len(words) == 3 and words[2] in ("0", "1"):
        return _of_two_images(path, ListedPair(words[0], words[1], words[2] == "1", line))
    raise DataError(f"{path}, line {line}: got {' '.join(words)!r}; expected {_FORMATS}")


def _name_pair(path: Path, line: int, words: list[str]) -> ListedPair:
    if len(words) == 3 and _is_number(words[1]) and _is_number(words[2]):
        return _of_two_images(path, ListedPair((words[0], int(words[1])), (words[0], int(words[2])), True, line))
    if len(words) == 4 and _is_number(words[1]) and _is_number(words[3]) and words[0] != words[2]:
        return ListedPair((words[0], int(words[1])), (words[2], int(words[3])), False, line)
    raise DataError(f"{path}, line {line}: got {' '.join(words)!r}; expected 'name 1 2' or 'name 1 other 2'")


def _of_two_images(path: Path, pair: ListedPair) -> ListedPair:
    if pair.first == pair.second:
        name = pair.first if isinstance(pair.first, str) else f"{pair.first[0]} {pair.first[1]}"
        raise DataError(expected(f"{path}, line {pair.line}", f"{name} twice", "two different images"))
    return pair


def _is_number(word: str) -> bool:
    return word.isdecimal() and len(word) < 10  # Python refuses to convert thousands of digits


def dealt_folds(genuine: Tensor) -> Tensor:
    """Deal the pairs of each kind into folds; one fold if a kind has a single pair."""
    count = max(1, min(_MOST_FOLDS, int(genuine.sum()), int((~genuine).sum())))
    folds = torch.empty(len(genuine), dtype=torch.int64)
    for kind in (genuine, ~genuine):
        folds[kind] = torch.arange(int(kind.sum())) % count
    return folds
