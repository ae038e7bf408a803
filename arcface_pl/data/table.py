"""`TableDataModule`: your own images, listed in a CSV or Parquet file."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arcface_pl.data.classes import ClassSplit
from arcface_pl.data.files import ImageFilesDataModule
from arcface_pl.data.folders.table_file import Row, check_paths, read_table
from arcface_pl.data.folders.tree import warn_of_similar
from arcface_pl.data.labelled import LabelledFiles, list_files, size_of
from arcface_pl.errors import DataError, expected, listed, printable

_LOG = logging.getLogger(__name__)


class TableDataModule(ImageFilesDataModule):
    """Your own images, one row each in a CSV or Parquet file.

    A row has the path of a file and its label, a text. A column with train, val or test divides the images; without it,
    or without rows of a part, validation and test images are split off by seed. Labels that only test rows have are
    held-out classes. Test rows may have a role: queries are then looked up in the gallery only. A table without
    training images can be evaluated on.

    Args:
        table: The file: .parquet or .pq (needs pyarrow), or CSV in UTF-8 with a header.
        root: Folder that paths are relative to. null for the table's.
        path_column: Column of the files' paths.
        label_column: Column of the labels.
        split_column: Column with train, val or test; may be missing.
        role_column: Column with query or gallery; may be missing.
        **kwargs: Arguments of `ImageFilesDataModule` and `ImageDataModule`.

    Raises:
        ValueError: If a value is out of range.
        DataError: If the table cannot be read or a value is missing; names the row.
    """

    def __init__(
        self,
        table: str,
        root: str | None = None,
        path_column: str = "path",
        label_column: str = "label",
        split_column: str = "split",
        role_column: str = "role",
        **kwargs: Any,
    ) -> None:
        table, root = str(table), None if root is None else str(root)  # a checkpoint cannot hold a Path
        self.table = Path(table).expanduser()
        self.root = self.table.parent if root is None else Path(root).expanduser()
        self.columns = {"path": path_column, "label": label_column, "split": split_column, "role": role_column}
        super().__init__(**kwargs)

    @property
    def dataset_name(self) -> str:
        """Name of the table."""
        return self.table.stem

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the table.

        Raises:
            DataError: If it cannot be read, a value is missing, or one file has two labels.
        """
        rows = read_table(self.table, self.columns)
        if any(row.split for row in rows) and (bare := next((row for row in rows if not row.split), None)):
            train = any(row.split == "train" for row in rows)
            if train:
                place = f"{self.table}, row {bare.number}: {self.columns['split']}"
                raise DataError(expected(place, "", "train, val or test, since other rows have one"))
            rows = [row._replace(split=row.split or "train") for row in rows]  # the others have the test's roles
        roles = [row for row in rows if row.split == "test" and row.role]
        if roles and (bare := next((row for row in rows if row.split == "test" and not row.role), None)):
            place = f"{self.table}, row {bare.number}: {self.columns['role']}"
            raise DataError(expected(place, "", "query or gallery, since other test rows have one"))
        repeated, missing = check_paths(self.table, self.root, rows)
        if repeated:
            _LOG.warning("%s: %d files are listed twice: %s", printable(self.table), len(repeated), listed(repeated))
        if missing and not self.skip_unreadable:
            found = f"{len(missing):,} of {len(rows):,} files are not there: {listed(missing)}"
            remedy = "Set data.root, or leave such files out with data.skip_unreadable true"
            raise DataError(f"{self.table}: {found}; expected paths relative to '{self.root}'. {remedy}")
        warn_of_similar(printable(self.table), [*{row.label: 0 for row in rows}])
        return rows

    @property
    def can_train(self) -> bool:  # type: ignore[override]  # a property here
        """Whether there are training rows."""
        return any(row.split in ("", "train") for row in self.rows)

    @cached_property
    def all_class_names(self) -> list[str]:
        """Names of the classes, in label order."""
        names = sorted({row.label for row in self.rows})
        if len(names) < 2:
            column = f"{self.table}: column {self.columns['label']}"
            raise DataError(expected(column, f"one class, {names[0]}", "two or more classes"))
        return names

    @property
    def class_split(self) -> ClassSplit:
        """Labels that are trained on and those held out; those without training rows are held out.

        Raises:
            ValueError: If ``classes`` or ``held_out_classes`` is invalid, or a class cannot be trained on.
        """
        chosen, names = super().class_split, self.all_class_names
        trainable = {row.label for row in self.rows if row.split in ("", "train")}
        unseen = [label for label in chosen.trained if names[label] not in trainable] if trainable else []
        if not unseen:
            return chosen
        first = next(row for row in self.rows if row.label == names[unseen[0]])
        place = f"{self.table}, row {first.number}: label"
        if self.classes is not None or first.split == "val":
            raise DataError(expected(place, first.label, "a label that training rows have"))
        held_out = sorted({*chosen.held_out, *unseen})
        if len(held_out) < 2:
            raise DataError(expected(place, first.label, "a label that training rows have, or two labels without any"))
        return ClassSplit([label for label in chosen.trained if label not in unseen], held_out)

    @property
    def listing(self) -> tuple[str, Tensor]:
        """Name of the table and the number of each of its rows."""
        return str(self.table), torch.tensor([row.number for row in self.rows])

    @property
    def is_query(self) -> dict[str, Tensor]:
        """Whether each test image is a query, (N,) bool, by set: test and held_out; empty for tables without roles.

        Known after :meth:`setup`.
        """
        query = torch.tensor([row.role == "query" for row in self.rows])
        sets: dict[str, Any] = {"test": self._loaded.test, "held_out": self._loaded.held_out_test}
        found = {name: query[getattr(part, "source", part).files.rows] for name, part in sets.items()}
        return {name: each for name, each in found.items() if each.any()}

    def list_files(self) -> dict[str, LabelledFiles]:
        """List the files of the rows, by part."""
        labels = {name: label for label, name in enumerate(self.all_class_names)}
        files = list_files((row.path, size_of(self.root / row.path), labels[row.label]) for row in self.rows)
        parts = [row.split or "train" for row in self.rows]
        places = {part: [i for i, each in enumerate(parts) if each == part] for part in ("train", "val", "test")}
        return {
            part: files.select(torch.tensor(found, dtype=torch.int64))
            for part, found in places.items()
            if found or part == "train"
        }
