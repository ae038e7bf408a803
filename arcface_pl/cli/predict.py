"""``predict MODEL IMAGE...``: the class of each of your own pictures."""

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcface_pl.cli.parser import MODEL_HELP, ToolParser, cell
from arcface_pl.errors import UserError, csv_value

if TYPE_CHECKING:
    from arcface_pl.recognizer import Recognizer

BATCH = 256
LEAST_FOR_BAR = 20  # pictures from which a progress bar is shown
FIELDS = ("file", "label", "cosine", "angle_degrees", "unknown", "error")


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = ToolParser("predict", "predict_pictures")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="a file; a folder, searched with all its subfolders for image files, in order of their names; or a quoted "
        "pattern with *, ? or **",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV instead of a table")
    form.add_argument("--json", action="store_true", help="print a JSON array of objects")
    parser.add_threshold()
    return parser.parse_args(args)


def run(args: Sequence[str]) -> int:
    """Classify pictures.

    Args:
        args: The model, the pictures and flags.

    Returns:
        The exit code: 1 if a file could not be read.

    Raises:
        UserError: If the model or an argument cannot be used.
    """
    given = _parse(args)
    from arcface_pl.cli.inputs import find_pictures, open_model, warn_of_threshold
    from arcface_pl.recognizer import Recognizer

    files = find_pictures(given.images)
    recognizer = Recognizer(open_model(given.model, given.networks))
    warn_of_threshold(given.threshold, recognizer)
    rows = list(_answers(recognizer, files, given.threshold))
    if given.json:
        print(json.dumps(rows, indent=2))  # noqa: T201
    elif given.csv:
        _print_csv(rows)
    else:
        _print_table(rows)
    return int(any("error" in row for row in rows))


def _answers(recognizer: "Recognizer", files: list[Path], threshold: float | None) -> Iterator[dict[str, Any]]:
    """Classify files in batches; yields one row per file, in order."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    step = min(BATCH, LEAST_FOR_BAR) if console.is_terminal else BATCH
    starts: Iterable[int] = range(0, len(files), step)
    if console.is_terminal and len(files) >= LEAST_FOR_BAR:  # rich's `disable` prints an empty line in old releases
        starts = track(starts, "reading", console=console, transient=True)
    for start in starts:
        batch = files[start : start + step]
        for file, found in zip(batch, recognizer.classify(batch, threshold=threshold), strict=True):
            yield {"file": str(file)} | _answer(file, found)


def _answer(file: Path, found: Any) -> dict[str, Any]:
    if isinstance(found, UserError):
        return {"error": str(found).removeprefix(f"{file}: ")}
    angle = math.degrees(math.acos(max(-1.0, min(1.0, found.cosine))))
    return {"label": found.name, "cosine": found.cosine, "angle_degrees": angle, "unknown": found.unknown}


def _print_csv(rows: list[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_value(value) for name, value in row.items()} for row in rows)


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in ("file", "class"):
        table.add_column(name, overflow="fold")  # not cut: a name is what the row is about
    table.add_column("cosine", justify="right")
    table.add_column("angle", justify="right")
    for row in rows:
        file = cell(row["file"])
        if "error" in row:
            table.add_row(file, f"[red]{cell(row['error'])}[/red]")
        else:
            name = f"unknown (nearest: {row['label']})" if row["unknown"] else row["label"]
            numbers = (f"{row['cosine']:.4f}", f"{row['angle_degrees']:.1f}\N{DEGREE SIGN}")
            table.add_row(file, cell(name), *numbers)
    Console(emoji=False).print(table)
