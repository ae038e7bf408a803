"""JSON and CSV that commands leave: no file that this package did not write is replaced."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arcface_pl.checkpoints.results import MARK, writing_result
from arcface_pl.errors import csv_value


def write_json_result(path: Path, results: Mapping[str, Any], **where: Any) -> Path:
    """Write plain values as indented JSON.

    Args:
        path: Where to.
        results: Plain values.
        **where: ``option`` and ``replace`` of `writing_result`.

    Returns:
        The file, which has another name than ``path`` if that was taken.
    """
    with writing_result(path, **where) as (file, path):
        file.write((json.dumps({**results, "producer": MARK.decode()}, indent=2) + "\n").encode())
    return path


def write_csv_result(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], **where: Any) -> Path:
    """Write a table as CSV, its text safe for spreadsheets; a file that begins alike is one of ours.

    Args:
        path: Where to.
        header: Names of the columns.
        rows: Their values; None for an empty cell.
        **where: ``option`` and ``replace`` of `writing_result`.

    Returns:
        The file, which has another name than ``path`` if that was taken.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows([csv_value(value) for value in row] for row in rows)
    with writing_result(path, ",".join(header).encode(), **where) as (file, path):
        file.write(text.getvalue().encode())
    return path
