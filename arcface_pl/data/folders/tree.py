"""Folders of images, a folder a class: which classes there are, and which files belong to them."""

import logging
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from arcface_pl.data.labelled import LabelledFiles, list_files
from arcface_pl.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "class_folders", "find_images", "listed", "split_folders"]

_LOG = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif", ".ppm", ".pgm", ".pbm")
PARTS = ("train", "val", "test")
_MOST_LISTED = 10


def split_folders(root: Path) -> dict[str, Path]:
    """Find the parts that a tree is divided into by folders.

    Args:
        root: The tree.

    Returns:
        Folders by the names train, val and test: those that are there, if train is and nothing else lies beside them;
        otherwise nothing, and the folders in ``root`` are classes.

    Raises:
        DataError: If ``root`` is no folder that can be read.
    """
    folders = {path.name: path for path in _folders(root)}
    return folders if "train" in folders and folders.keys() <= set(PARTS) else {}


def class_folders(root: Path) -> dict[str, list[Path]]:
    """Find the classes of a tree: each folder in it that holds an image, itself or in folders of its own.

    Names are compared as people read them (in Unicode's form C): what one system wrote as one character and another as
    letter and accent is one class. Hidden folders are none, and neither are those without an image.

    Args:
        root: The tree.

    Returns:
        Folders by class, in the order of their sorted names.

    Raises:
        DataError: If ``root`` cannot be read, a name is no text, or there is no class.
    """
    found: dict[str, list[Path]] = {}
    empty = []
    for folder in _folders(root):
        try:
            folder.name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{root}: the folder {folder.name!r} is not named in UTF-8, which a class must be"
            ) from None
        if next(_images(folder), None) is None:
            empty.append(folder.name)
        else:
            found.setdefault(unicodedata.normalize("NFC", folder.name), []).append(folder)
    if empty:
        _LOG.warning("%s: folders without an image are no classes: %s", root, listed(empty))
    if not found:
        raise DataError(
            f"{root}: has no folder with an image in it; accepts a folder for each class, with files that end in "
            f"{', '.join(IMAGE_SUFFIXES)}"
        )
    return dict(sorted(found.items()))


def find_images(root: Path, classes: dict[str, list[Path]], class_names: list[str]) -> LabelledFiles:
    """List the images of all classes, class by class, by name within a class.

    Every image below a class's folder belongs to it, however deep it lies. Links are followed. Hidden files and
    folders, and files whose names do not end as images' do, are left out.

    Args:
        root: What names are to be relative to.
        classes: What `class_folders` found.
        class_names: All classes, in label order.

    Returns:
        The files.

    Raises:
        DataError: If a class is not among ``class_names``, or a folder cannot be read.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    if unknown := [name for name in classes if name not in labels]:
        raise DataError(
            f"{classes[unknown[0]][0].parent}: has classes that training has not: {listed(unknown)}. Accepts the "
            f"{len(class_names)} classes of training; for others verify pairs of images, with PairsDataModule"
        )
    return list_files(
        (os.path.relpath(path, root), size, labels[name])
        for name, folders in classes.items()
        for folder in folders
        for path, size in _images(folder)
    )


def listed(names: list[str]) -> str:
    """Join names with commas; of many the first ten, and how many more there are."""
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{root}: {error.strerror or error}; accepts a folder with a folder for each class") from None


def _images(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield path and bytes of each image, folder by folder, each in the order of names."""

    def stop(error: OSError) -> None:
        raise DataError(f"{error.filename}: {error.strerror}") from None

    entered: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=stop):
        # A link to a folder above leads here again and again.
        real = os.path.realpath(here)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                path = os.path.join(here, name)
                try:
                    yield path, os.stat(path).st_size
                except OSError:  # a link to nothing: reported with the files that cannot be read
                    yield path, -1
