"""Read tables of images: CSV with the standard library, Parquet with pyarrow."""

import csv
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from arcface_pl.data.folders.tree import PART_OF
from arcface_pl.errors import DataError, expected, listed, readable

ROLES = ("query", "gallery")
_PARQUET = (".parquet", ".pq")
_DELIMITERS = (",", ";", "\t", "|")
_MOST_ROWS_PER_BYTE = 1000  # of a Parquet file, however well it is compressed


class Row(NamedTuple):
    """One image of a table, all values as text.

    Attributes:
        number: Row number: the line of the header is 1 in CSV; in Parquet, the first row is 1.
        path: Path of the file.
        label: Name of its class.
        split: train, val or test; empty if the table does not say.
        role: query or gallery; empty if the table does not say.
    """

    number: int
    path: str
    label: str
    split: str
    role: str


def read_table(table: Path, columns: Mapping[str, str]) -> list[Row]:
    """Read and check a table.

    Args:
        table: A file that ends in .parquet or .pq, or else CSV in UTF-8 with a header, separated by commas, semicolons,
            tabs or bars.
        columns: Names of the columns path, label, split and role; the last two may be missing from the table.

    Returns:
        The rows.

    Raises:
        DataError: If the table cannot be read, a column is missing, or a value is; names the row.
    """
    with readable("data.table", table, "a CSV file in UTF-8, or a Parquet file", UnicodeDecodeError, csv.Error):
        rows = [*(_parquet_rows if table.suffix.lower() in _PARQUET else _csv_rows)(table, columns)]
    if not rows:
        raise DataError(expected("data.table", f"{table} without rows", "a row per image"))
    return [_checked(table, columns, row) for row in rows]


def _csv_rows(table: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    with table.open(encoding="utf-8-sig", newline="") as stream:
        first = stream.readline()
        headers = {each: next(csv.reader([first], delimiter=each, skipinitialspace=True), []) for each in _DELIMITERS}
        names = {each: [name.strip() for name in header] for each, header in headers.items()}
        delimiter = max(names, key=lambda each: (len({*names[each]} & {*columns.values()}), len(names[each])))
        header = names[delimiter]
        places = _places(table, header, columns)
        for values in (reader := csv.reader(stream, delimiter=delimiter, skipinitialspace=True)):
            if not values:
                continue
            number = reader.line_num + 1
            if len(values) != len(header):
                accepted = f"{len(header)}, as in the header; put values that contain {delimiter!r} in double quotes"
                raise DataError(expected(f"{table}, row {number}: number of values", len(values), accepted))
            yield Row(number, *(values[places[role]].strip() if role in places else "" for role in Row._fields[1:]))


def _parquet_rows(table: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        remedy = "Install pyarrow: pip install 'arcface_pl[parquet]'"
        raise DataError(
            expected("data.table", str(table), "a CSV file, since pyarrow is not installed", remedy)
        ) from None
    with readable("data.table", table, "a Parquet file", ArrowException), parquet.ParquetFile(table) as file:
        if file.metadata.num_rows > _MOST_ROWS_PER_BYTE * table.stat().st_size:
            got = f"{file.metadata.num_rows:,} rows in {table.stat().st_size:,} bytes"
            raise DataError(expected(f"data.table {table}", got, "a whole Parquet file"))
        places = _places(table, file.schema_arrow.names, columns)
        found = file.read(columns=[columns[role] for role in places])
        values = [
            found.column(columns[role]).to_pylist() if role in places else [""] * found.num_rows
            for role in Row._fields[1:]
        ]
    for number, row in enumerate(zip(*values, strict=True), start=1):
        yield Row(number, *("" if value is None else str(value) for value in row))


def _places(table: Path, header: list[str], columns: Mapping[str, str]) -> dict[str, int]:
    """Return the place of each column that the table has."""
    if not any(header):
        raise DataError(expected("data.table", f"{table} without columns", "a header, then a row per image"))
    for role, name in columns.items():
        if role in ("path", "label") and header.count(name) != 1:
            fault = f"no column {name!r}" if name not in header else f"two columns {name!r}"
            alike = [each for each in header if each.casefold() == name.casefold() != each]
            remedy = " ".join([f"Name it with data.{role}_column", *alike[:1]])
            raise DataError(expected(f"data.table {table}", fault, f"one among its columns {listed(header)}", remedy))
    return {role: header.index(name) for role, name in columns.items() if name in header}


def _checked(table: Path, columns: Mapping[str, str], row: Row) -> Row:
    for role in ("path", "label"):
        if not getattr(row, role):
            raise DataError(expected(f"{table}, row {row.number}: {columns[role]}", "", "a value in every row"))
    if "\0" in row.path:
        raise DataError(expected(f"{table}, row {row.number}: {columns['path']}", row.path, "the path of a file"))
    split = PART_OF.get(row.split.lower(), row.split)
    if split not in ("", "train", "val", "test"):
        accepted = "train, val or test, or empty in every row"
        raise DataError(expected(f"{table}, row {row.number}: {columns['split']}", row.split, accepted))
    if row.role.lower() not in ("", *ROLES):
        raise DataError(expected(f"{table}, row {row.number}: {columns['role']}", row.role, "query, gallery or empty"))
    if row.role and split not in ("", "test"):
        accepted = "no role outside the test images"
        raise DataError(expected(f"{table}, row {row.number}: {columns['role']}", row.role, accepted))
    label = unicodedata.normalize("NFC", row.label)
    return row._replace(label=label, split="test" if row.role else split, role=row.role.lower())


def check_paths(table: Path, root: Path, rows: list[Row]) -> tuple[list[str], list[str]]:
    """Find files that are listed twice and files that are missing.

    Args:
        table: The table, for messages.
        root: Folder that paths are relative to.
        rows: Its rows.

    Returns:
        Repeated and missing files, with their rows.

    Raises:
        DataError: If one file has two labels.
    """
    first: dict[str, Row] = {}
    repeated, missing = [], []
    for row in rows:
        path = os.path.normpath(root / row.path)
        before = first.setdefault(path, row)
        if before.label != row.label:
            accepted = f"one label per file: row {before.number} has {before.label!r}"
            raise DataError(expected(f"{table}, row {row.number}: label of {row.path}", row.label, accepted))
        if before is not row:
            across = f" in {before.split} and {row.split}" if before.split != row.split else ""
            repeated.append(f"rows {before.number} and {row.number}{across}: {row.path}")
        if not os.path.isfile(path):
            missing.append(f"row {row.number}: {row.path}")
    return repeated, missing
