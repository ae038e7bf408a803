"""`ImageFolderDataModule`: your own images, in one folder per class."""

from functools import cached_property
from pathlib import Path
from typing import Any

from arcface_pl.data.files import ImageFilesDataModule
from arcface_pl.data.folders.tree import class_folders, find_images, split_folders
from arcface_pl.data.labelled import LabelledFiles
from arcface_pl.errors import DataError, expected


class ImageFolderDataModule(ImageFilesDataModule):
    """Your own images: one folder per class, files of any size and kind.

    ``root`` holds either the class folders, and validation and test images are split off by seed; or ``train`` and
    optionally ``val`` and ``test``, each with the class folders. Classes are the sorted folder names. All images below
    a class folder belong to it, at any depth; links are followed; hidden files and folders are skipped.

    Args:
        root: Folder of the images.
        **kwargs: Arguments of `ImageFilesDataModule` and `ImageDataModule`.

    Raises:
        ValueError: If a value is out of range.
        DataError: If the folder or a class in it is missing.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        root = str(root)  # a checkpoint cannot hold a Path
        self.root = Path(root).expanduser()
        super().__init__(**kwargs)

    @property
    def dataset_name(self) -> str:
        """Name of the folder."""
        return self.root.resolve().name

    @cached_property
    def all_class_names(self) -> list[str]:
        """Names of the classes, in label order."""
        names = list(class_folders(split_folders(self.root).get("train", self.root)))
        if len(names) < 2:
            accepted = "two or more folders with images, one per class"
            inner = self.root / names[0]
            remedy = f"Perhaps data.root {inner} is meant" if any(each.is_dir() for each in inner.iterdir()) else ""
            raise DataError(expected(f"data.root {self.root}", f"one class, {names[0]}", accepted, remedy))
        return names

    def list_files(self) -> dict[str, LabelledFiles]:
        """List the images of ``root``, or of its train, val and test folders.

        Raises:
            DataError: If a folder cannot be read, or validation or test have a class that training lacks.
        """
        folders = split_folders(self.root) or {"train": self.root}
        names = self.all_class_names
        return {part: find_images(self.root, class_folders(at, warn=True), names) for part, at in folders.items()}
