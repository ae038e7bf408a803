"""Folders of images, one per class: which classes there are, and which files belong to them."""

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from arcface_pl.data.labelled import LabelledFiles, list_files, size_of
from arcface_pl.errors import DataError, expected, listed, printable, readable
from arcface_pl.preprocessing import IMAGE_SUFFIXES, is_image, left_out

_LOG = logging.getLogger(__name__)

_PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
PART_OF = {name: part for part, names in _PARTS.items() for name in names}
_SHORT = {"tr": "train", "trn": "train", "vl": "val", "te": "test", "tst": "test"}
_LEFTOVER = "__MACOSX"


def split_folders(root: Path) -> dict[str, Path]:
    """Find the folders that divide a tree into train, val and test.

    ``train`` or ``training``, ``test`` or ``testing``, and ``val``, ``valid``, ``validation``, ``dev``, ``eval`` or
    ``evaluation`` are such folders, in upper or lower case, if nothing else lies next to them.

    Args:
        root: The tree.

    Returns:
        Folders by the names train, val and test. Empty if the folders in ``root`` are classes.

    Raises:
        DataError: If ``root`` cannot be read, or if its folders can be read both as a division and as classes.
    """
    folders = _folders(root, hidden=True)
    divisions = [folder for folder in folders if folder.name.lower() in PART_OF]
    if not divisions:
        _refuse_alike(root, [folder.name for folder in folders if folder.name[0] != "."])
        return {}
    parts = [PART_OF[folder.name.lower()] for folder in divisions]
    others = [
        folder.name
        for folder in folders
        if folder not in divisions and not (folder.name.startswith(".") and not _holds_images(folder))
    ]
    if others or "train" not in parts or len(set(parts)) < len(parts):
        names = listed([folder.name for folder in divisions])
        accepted = (
            "either train, and optionally val and test, once each and with nothing next to them, which divide the "
            "images; or only class folders, none of them with such a name"
        )
        got = names + (f" next to {listed(others)}" if others else "")
        raise DataError(expected(f"data.root {root}", got, accepted))
    found = dict(zip(parts, divisions, strict=True))
    same: dict[str, str] = {}
    for folder in divisions:
        if (other := same.setdefault(os.path.realpath(folder), folder.name)) != folder.name:
            raise DataError(expected(f"data.root {root}", f"{folder.name}, a link to {other}", "other images in each"))
    return found


def _refuse_alike(root: Path, names: list[str]) -> None:
    """Refuse folders that are all named much like a division: train_set and test_set, or seg_train and seg_test.

    Raises:
        DataError: If they are.
    """
    parts = []
    for name in names:
        words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
        short = [re.sub(r"(set|data|images|imgs)$", "", word) for word in words]
        parts.append(next((part for word in short if (part := PART_OF.get(word) or _SHORT.get(word))), None))
    if "train" in parts and None not in parts and len(set(parts)) > 1:
        accepted = "folders named train, and optionally val and test, if they divide the images; or else one per class"
        raise DataError(expected(f"data.root {root}", listed(names), accepted, "Rename them"))


def class_folders(root: Path, *, warn: bool = False) -> dict[str, list[Path]]:
    """Find the classes of a tree: each folder that holds an image, directly or in subfolders.

    Names are compared in Unicode's form C: folders that differ only in how an accent is encoded are one class. Hidden
    folders and those without images are not classes.

    Args:
        root: The tree.
        warn: Warn of images and folders that are in no class, and of classes whose names look alike.

    Returns:
        Folders by class, sorted by name.

    Raises:
        DataError: If ``root`` cannot be read, a name is not UTF-8, or there is no class.
    """
    found: dict[str, list[Path]] = {}
    empty = []
    for folder in _folders(root):
        try:
            folder.name.encode()
        except UnicodeEncodeError:
            raise DataError(expected(f"data.root {root}", folder.name, "folders named in UTF-8")) from None
        if folder.name == _LEFTOVER or next(_images(folder), None) is None:
            empty.append(folder.name)
        else:
            found.setdefault(unicodedata.normalize("NFC", folder.name), []).append(folder)
    if not found:
        accepted = f"a folder per class, with files that end in {', '.join(IMAGE_SUFFIXES)}"
        raise DataError(expected(f"data.root {root}", "no folder with images", accepted))
    if warn:
        shown = printable(root)
        if empty:
            _LOG.warning("%s: folders without images are not classes: %s", shown, listed(empty))
        hidden = [path.name for path in _folders(root, hidden=True) if path.name[0] == "." and _holds_images(path)]
        if hidden:
            _LOG.warning("%s: hidden folders are not classes: %s", shown, listed(hidden))
        if loose := sum(is_image(path.name) and path.is_file() for path in root.iterdir()):
            _LOG.warning("%s: left out %d images next to the class folders", shown, loose)
        for name, folders in found.items():
            if len(folders) > 1:
                _LOG.warning(
                    "%s: %d folders named %s, in different Unicode forms, are one class",
                    shown,
                    len(folders),
                    printable(name),
                )
        warn_of_similar(shown, list(found))
        inner = {frozenset(each.name for folder in folders for each in _folders(folder)) for folders in found.values()}
        if len(found) > 1 and len(inner) == 1 and (same := sorted(*inner)):
            text = "%s: all %d classes hold the same folders: %s. If these are the classes, move them up"
            _LOG.warning(text, shown, len(found), listed(same))
    return dict(sorted(found.items()))


def warn_of_similar(place: str, class_names: list[str]) -> None:
    """Warn of classes whose names differ in case, spaces or Unicode form only."""
    alike: dict[str, list[str]] = {}
    for name in class_names:
        alike.setdefault(unicodedata.normalize("NFKC", name).casefold().strip(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            which = listed([repr(name) for name in names])
            _LOG.warning("%s: %s are different classes, but differ only in case, spaces or Unicode form", place, which)


def find_images(root: Path, classes: dict[str, list[Path]], class_names: list[str]) -> LabelledFiles:
    """List the images of all classes, sorted by class and by name.

    All images below a class's folder belong to it, at any depth. Links are followed. Hidden files and folders are
    skipped; other files that are not images are counted by suffix in a warning.

    Args:
        root: Folder that names are relative to.
        classes: Result of `class_folders`.
        class_names: All classes, in label order.

    Returns:
        The files.

    Raises:
        DataError: If a class is not among ``class_names``, a folder cannot be read, or links put it in two classes.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    if unknown := [name for name in classes if name not in labels]:
        accepted = f"the {len(class_names)} classes of training"
        remedy = "For other classes, verify pairs of images with PairsDataModule"
        raise DataError(
            expected(f"data.root {classes[unknown[0]][0].parent}", f"the classes {listed(unknown)}", accepted, remedy)
        )
    skipped: Counter[str] = Counter()
    owners: dict[str, str] = {}
    files = list_files(
        (os.path.relpath(path, root), size, labels[name])
        for name, folders in classes.items()
        for folder in folders
        for path, size in _images(folder, skipped, name, owners)
    )
    if skipped:
        _LOG.warning("%s: %s", printable(next(iter(classes.values()))[0].parent), left_out(skipped))
    return files


def _folders(root: Path, *, hidden: bool = False) -> list[Path]:
    with readable("data.root", root, "a folder that holds a folder of images per class"):
        return sorted(path for path in root.iterdir() if path.is_dir() and (hidden or not path.name.startswith(".")))


def _holds_images(folder: Path) -> bool:
    return any(is_image(name) for _, _, files in os.walk(folder) for name in files)


def _images(
    folder: Path, skipped: Counter[str] | None = None, owner: str = "", owners: dict[str, str] | None = None
) -> Iterator[tuple[str, int]]:
    """Yield path and bytes of each image, folder by folder in order of names.

    Args:
        folder: Where to look.
        skipped: Counts other files by suffix.
        owner: The class.
        owners: The class of each real folder with images that was found before.
    """

    def stop(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None

    entered: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=stop):
        # A link to a folder above leads here again and again.
        real = os.path.realpath(here)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            if is_image(name):
                path = os.path.join(here, name)
                if owners is not None and (other := owners.setdefault(real, owner)) != owner:
                    got = f"{here}, by a link, in the classes {other} and {owner}"
                    raise DataError(expected("data.root", got, "each image in one class"))
                yield path, size_of(path)
            elif skipped is not None:
                skipped[os.path.splitext(name)[1].lower()] += 1
