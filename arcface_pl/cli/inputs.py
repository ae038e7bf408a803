"""What the commands that use a trained model are given: the model, and pictures of which some may be unreadable."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.cli.find_checkpoint import find_checkpoint
from arcface_pl.errors import SettingsError
from arcface_pl.preprocessing import IMAGE_SUFFIXES, ImageError, is_image, left_out
from arcface_pl.recognizer import TrainedModel
from arcface_pl.recognizer.pretrained import read_pretrained

__all__ = ["Pictures", "find_pictures", "name_folders", "open_model", "printable", "read_pictures"]

_LOG = logging.getLogger(__name__)


class Pictures(NamedTuple):
    """Pictures as the network's size, and what became of each file.

    Attributes:
        pixels: (B, C, S, S) uint8.
        paths: The files they were read from, B of them.
        errors: What is wrong with each of the others.
    """

    pixels: Tensor
    paths: list[Path]
    errors: dict[Path, str]


def open_model(name: str) -> TrainedModel:
    """Open a checkpoint, the newest run's best, last or last-good one, or a folder that `save_pretrained` wrote.

    Raises:
        UserError: If there is none, or it cannot be used.
    """
    if os.path.isdir(name):
        return read_pretrained(name)
    return TrainedModel.from_checkpoint(find_checkpoint(name))


def find_pictures(names: Sequence[str | Path]) -> list[Path]:
    """Return the files that names stand for.

    A folder stands for the files with a picture's suffix in it and in all its subfolders, in order of their names; a
    pattern with *, ? or ** for the files that match; anything else for itself. Names that begin with a dot are hidden.

    Raises:
        SettingsError: If a folder has no picture, or no file matches a pattern.
    """
    files: list[Path] = []
    for name in map(str, names):
        if os.path.isdir(name):
            files += _some(name, Path(name).rglob("*"))
        elif not os.path.lexists(name) and glob.has_magic(name):
            files += _matching(name)
        else:
            files.append(Path(name))
    return files


def name_folders(names: Sequence[str | Path]) -> Iterator[tuple[str, list[Path]]]:
    """Yield names and their pictures: each folder is one name, or holds a folder for each of several.

    Raises:
        SettingsError: If one is no folder, or has no picture.
    """
    for name in map(str, names):
        path = Path(name)
        if not os.path.isdir(name):
            raise SettingsError(f"{name}: there is no such folder; accepts one whose name is to be enrolled")
        entries = _entries(path)
        inner = (
            []
            if any(is_image(each.name) for each in _files(entries, path))
            else sorted(each for each in entries if os.path.isdir(each))
        )
        for folder in inner or [path]:
            # resolve(): a dot has no name
            yield folder.resolve().name, _some(str(folder), _entries(folder))


def read_pictures(model: TrainedModel, paths: Sequence[Path]) -> Pictures:
    """Read files and frame them for the model; one that cannot be read is noted, and the others go on."""
    to_input = model.preprocessor
    pixels: dict[Path, Tensor] = {}
    errors: dict[Path, str] = {}
    for path in paths:
        try:
            pixels[path] = to_input.read(path)
        except ImageError as error:
            errors[path] = str(error).removeprefix(f"{path}: ")
    none = torch.empty(0, to_input.in_channels, to_input.image_size, to_input.image_size, dtype=torch.uint8)
    return Pictures(torch.stack(list(pixels.values())) if pixels else none, list(pixels), errors)


def printable(name: str | Path) -> str:
    """Write a file's name on one line, without the control characters and broken bytes that it may have."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in str(name))


def _matching(pattern: str) -> list[Path]:
    anchor = Path(pattern).anchor
    # Path's patterns do not follow links, which may lead round in a circle
    try:
        matches = Path(anchor).glob(pattern[len(anchor) :])
        asked_for_hidden = _hidden(Path(pattern))
        found = sorted(path for path in matches if os.path.isfile(path) and (asked_for_hidden or not _hidden(path)))
    except (ValueError, NotImplementedError, IndexError) as error:
        raise SettingsError(f"{pattern}: it is no pattern ({error})") from error
    if not found:
        raise SettingsError(f"{pattern}: no file matches this pattern")
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise SettingsError(f"{folder}: this folder cannot be read ({error.strerror})") from error


def _some(folder: str, paths: Iterable[Path]) -> list[Path]:
    files = _files(paths, Path(folder))
    found = [path for path in files if is_image(path.name)]
    if not found:
        accepted = ", ".join(sorted(IMAGE_SUFFIXES))
        raise SettingsError(f"{folder}: no file in this folder has a picture's suffix ({accepted})")
    if skipped := Counter(path.suffix.lower() for path in files if not is_image(path.name)):
        _LOG.warning("%s: %s", printable(folder), left_out(skipped))
    return found


def _files(paths: Iterable[Path], below: Path) -> list[Path]:
    return sorted(path for path in paths if not _hidden(path.relative_to(below)) and os.path.isfile(path))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
