"""Images that a CSV or Parquet file lists."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from arcface_pl.data import ImageFolderDataModule, TableDataModule
from arcface_pl.errors import DataError

SMALL: dict[str, Any] = {"image_size": 16, "batch_size": 8, "num_workers": 0, "seed": 3}


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(value).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def table(folder: Path, rows: Sequence[Sequence[str]], header: str = "path,label", name: str = "photos.csv") -> Path:
    """Write a table and the files of its first column, unless their names begin with "no"."""
    for number, row in enumerate(rows):
        if row and row[0] and not row[0].startswith("no"):
            write(folder / row[0], number)
    text = io.StringIO()
    csv.writer(text, delimiter=";" if ";" in header else ",").writerows([header.replace(";", ",").split(","), *rows])
    (folder / name).write_text(text.getvalue(), encoding="utf-8")
    return folder / name


def pictures(labels: str = "ab", count: int = 10, *more: str) -> list[list[str]]:
    return [[f"{label}/{number:02d}.png", label, *more] for label in labels for number in range(count)]


def made(path: Path, **kwargs: Any) -> TableDataModule:
    data = TableDataModule(str(path), **{**SMALL, **kwargs})
    data.prepare_data()
    data.setup("fit")
    return data


def test_it_gives_the_batches_of_the_same_files_in_folders(tmp_path: Path) -> None:
    """The split depends on labels and order only, which are those of the folders."""
    listed = made(table(tmp_path, pictures("abc", 20)))
    folders = ImageFolderDataModule(str(tmp_path), **SMALL)
    folders.setup("fit")
    assert (listed.num_train, listed.num_val, listed.num_test) == (49, 5, 6)
    assert listed.class_names == folders.class_names == ["a", "b", "c"]
    for one, other in zip(listed.train_dataloader(), folders.train_dataloader(), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert listed.state_dict()["data"].split()[1:] == folders.state_dict()["data"].split()[1:]


def test_a_split_column_divides_the_rows(tmp_path: Path) -> None:
    rows = [*pictures("ab", 6, "Train"), ["v.png", "a", "valid"], ["t.png", "b", "testing"], ["u.png", "a", "TEST"]]
    data = made(table(tmp_path, rows, "path,label,split"))
    assert (data.num_train, data.num_val, data.num_test) == (12, 1, 2)


def test_labels_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    names = ["1e3", "001", "1", "true", "2024-01-01", "null"]
    rows = [[f"{place}/{n}.png", name] for place, name in enumerate(names) for n in range(4)]
    assert made(table(tmp_path, rows), val_fraction=0.25, test_fraction=0.25).class_names == sorted(names)


@pytest.mark.parametrize("header", ["path;label", "label,path", "when,path,label,who"])
def test_columns_are_found_by_name(tmp_path: Path, header: str) -> None:
    columns = header.replace(";", ",").split(",")
    cells = {"when": "x", "who": "y, z"}
    rows = [[{"path": path, "label": label, **cells}[name] for name in columns] for path, label in pictures()]
    for path, _ in pictures():
        write(tmp_path / path, 1)
    text = io.StringIO()
    csv.writer(text, delimiter=";" if ";" in header else ",").writerows([columns, *rows])
    (tmp_path / "photos.csv").write_text(text.getvalue())
    assert made(tmp_path / "photos.csv").num_train == 16


def test_columns_can_have_other_names_and_files_another_root(tmp_path: Path) -> None:
    path = table(tmp_path, pictures(), "file,name")
    (tmp_path / "lists").mkdir()
    path = path.rename(tmp_path / "lists" / "photos.csv")
    data = made(path, root=str(tmp_path), path_column="file", label_column="name")
    assert data.num_train == 16
    with pytest.raises(DataError, match="no column 'path'.*columns file, name. Name it with data.path_column"):
        made(path)


def test_a_parquet_table_is_the_csv_one(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [[path, {"a": 1, "b": 20}[label]] for path, label in pictures()]
    listed = table(tmp_path, [[path, str(label)] for path, label in rows])
    columns = {"path": [path for path, _ in rows], "label": [label for _, label in rows], "extra": [None] * 20}
    parquet.write_table(pyarrow.table(columns), tmp_path / "photos.parquet")
    one, other = made(listed), made(tmp_path / "photos.parquet")
    assert other.class_names == ["1", "20"]
    assert one.state_dict() == other.state_dict()
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "photos.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match="data.table: got .*cut.parquet"):
        made(tmp_path / "cut.parquet")


def test_without_pyarrow_a_parquet_table_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'arcface_pl\[parquet\]'"):
        made(tmp_path / "photos.parquet")


FAULTS = {
    "missing": ([*pictures(), ["no/1.png", "a"]], "path,label", "1 of 21 files are not there: row 22: no/1.png"),
    "empty label": ([*pictures(), ["c.png", ""]], "path,label", "row 22: label: got ''"),
    "empty path": ([*pictures(), ["", "a"]], "path,label", "row 22: path: got ''"),
    "split": (
        [*pictures("ab", 9, "train"), ["c.png", "a", "holdout"]],
        "path,label,split",
        "row 20: split: got 'holdout'",
    ),
    "no split": ([*pictures("ab", 9, "train"), ["c.png", "a", ""]], "path,label,split", "row 20: split: got ''"),
    "role": ([*pictures("ab", 9, "probe")], "path,label,role", "row 2: role: got 'probe'"),
    "too many": ([*pictures(), ["c.png", "a", "b"]], "path,label", "row 22: number of values: got 3; expected 2"),
    "too few": ([*pictures(), ["c.png"]], "path,label", "row 22: number of values: got 1; expected 2"),
    "two labels": ([*pictures(), ["a/00.png", "b"]], "path,label", "row 22: label of a/00.png: got 'b'.*row 2 has 'a'"),
    "no rows": ([], "path,label", "without rows"),
    "one class": (pictures("a"), "path,label", "got 'one class, a'"),
    "other case": (pictures(), "Path;Label", "no column 'path'.; expected .* Path, Label. Name it .*path_column Path$"),
    "nothing": ([], "", "without columns'; expected a header, then a row per image"),
    "no column": (pictures(), "path,class", "no column 'label'.*data.label_column"),
    "twice": (pictures("ab", 10, "x"), "path,label,label", "two columns 'label'"),
    "untrained": ([*pictures("ab", 9, "train"), ["c.png", "c", "val"]], "path,label,split", "row 20: label: got 'c'"),
    "one unseen": ([*pictures("ab", 9, "train"), ["c.png", "c", "test"]], "path,label,split", "row 20: label: got 'c'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_row(tmp_path: Path, fault: str) -> None:
    rows, header, message = FAULTS[fault]
    with pytest.raises(DataError, match=message):
        made(table(tmp_path, rows, header))


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.csv").write_bytes(b"\xff\xd8\xff\xe0" * 9)
    (tmp_path / "photo.parquet").write_bytes(b"PAR1" * 9)
    for name in ("photo.csv", "photo.parquet", "nothing.csv", "."):
        with pytest.raises(DataError, match="data.table"):
            made(tmp_path / name)


def test_unreadable_files_are_named_with_their_rows_or_left_out(tmp_path: Path) -> None:
    path = table(tmp_path, [*pictures(), ["no/1.png", "a"]])
    (tmp_path / "b" / "03.png").write_bytes(b"x")
    with pytest.raises(DataError, match="row 22: no/1.png"):
        made(path)
    (tmp_path / "no").mkdir()
    write(tmp_path / "no" / "1.png", 5)
    with pytest.raises(DataError, match=r"1 of 21 images cannot be read: .*photos.csv, row 15: .*03.png"):
        made(path)
    (tmp_path / "no" / "1.png").unlink()
    data = made(path, skip_unreadable=True)
    assert data.num_train + data.num_val + data.num_test == 19


def test_files_that_are_listed_twice_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*pictures("ab", 8, "train"), ["./a/00.png", "a", "test"], ["t.png", "b", "test"]]
    made(table(tmp_path, rows, "path,label,split"))
    assert "1 files are listed twice: rows 2 and 18 in train and test: ./a/00.png" in caplog.text


def test_labels_of_test_rows_alone_are_held_out_and_roles_are_kept(tmp_path: Path) -> None:
    roles = {0: "query", 1: "gallery", 2: "gallery"}
    unseen = [[f"{label}/{n}.png", label, "test", roles[n]] for label in "xyz" for n in range(3)]
    seen = [[f"t{label}.png", label, "test", "gallery"] for label in "ab"]
    rows = [*pictures("ab", 8, "train", ""), *unseen, *seen]
    data = made(table(tmp_path, rows, "path,label,split,role"))
    assert (data.class_names, data.held_out_class_names) == (["a", "b"], ["x", "y", "z"])
    assert data.is_query.keys() == {"held_out"}
    assert data.is_query["held_out"].tolist() == [True, False, False] * 3
    (_, labels), *more = data.held_out_dataloader("test")
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert not more
    assert data.held_out_dataloader("val") == []


def test_a_table_of_test_rows_can_be_evaluated_on_but_not_trained_on(tmp_path: Path) -> None:
    path = table(tmp_path, pictures("ab", 4, "test"), "path,label,split")
    data = TableDataModule(str(path), **SMALL)
    data.normalize_as((0.5,) * 3, (0.5,) * 3)
    data.setup("test")
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 8
    with pytest.raises(DataError, match="photos without training images"):
        made(path)
