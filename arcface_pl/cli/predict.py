"""``predict CKPT IMAGE...``: the class of each of a person's own pictures."""

import csv
import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcface_pl.cli.parser import ToolParser
from arcface_pl.errors import SettingsError

if TYPE_CHECKING:
    from arcface_pl.recognizer import Recognizer

__all__ = ["run"]

BATCH = 256
# A bar that is gone before it is seen helps nobody.
LEAST_FOR_BAR = 20
FIELDS = ("file", "label", "cosine", "angle_degrees", "unknown", "error")

_DESCRIPTION = """\
Say the class of pictures: which one, the cosine and the angle to its center, and "unknown" where the cosine stays
below the threshold that was measured in training. Digits may be dark on light or light on dark, anywhere in the
picture. No config is read. A file that cannot be read is reported, and the others go on.

Exit code: 0 if all went well, 1 if some files could not be read, 2 for a mistake in the command."""

_EXAMPLES = """\
examples:
  arcface-pl predict best photo.jpg
  arcface-pl predict best scans/ 'more/*.png' --json
  arcface-pl predict lightning_logs/version_0/checkpoints/best.ckpt scans/ --csv > classes.csv

'arcface-pl predict --ckpt_path CKPT' writes the classes of the test set to predictions.csv instead."""


def _parser() -> ToolParser:
    parser = ToolParser("predict", _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        help="a .ckpt file; a folder that Recognizer.save_pretrained wrote; best, last or last-good: the newest run's",
    )
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="a file; a folder, searched through all its subfolders for files with a picture's suffix, in order of "
        "their names; or a pattern with *, ? or ** in quotes",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV instead of a table")
    form.add_argument("--json", action="store_true", help="print one JSON array of objects")
    parser.add_argument(
        "--threshold", type=float, metavar="COSINE", help="cosine from which on a class is believed, from -1 to 1"
    )
    return parser


def run(args: Sequence[str]) -> int:
    """Classify pictures.

    Args:
        args: The checkpoint, the pictures and flags.

    Returns:
        The exit code: 1 if a file could not be read.

    Raises:
        SettingsError: If a setting cannot be used.
        CheckpointError: If the checkpoint cannot be used.
    """
    asked = _parser().parse_args(args)
    if asked.threshold is not None and not -1 <= asked.threshold <= 1:
        raise SettingsError(f"--threshold: got {asked.threshold}, accepts a cosine from -1 to 1")
    from arcface_pl.cli.inputs import find_pictures, open_model
    from arcface_pl.recognizer import Recognizer

    files = find_pictures(asked.images)
    recognizer = Recognizer(open_model(asked.checkpoint))
    if asked.threshold is None and recognizer.thresholds.classification is None:
        print("No threshold is kept in this model: nothing is called unknown.", file=sys.stderr)  # noqa: T201
    rows = list(_answers(recognizer, files, asked.threshold))
    _print(rows, "csv" if asked.csv else "json" if asked.json else "table")
    return int(any("error" in row for row in rows))


def _answers(recognizer: "Recognizer", files: list[Path], threshold: float | None) -> Iterator[dict[str, Any]]:
    """Classify files, a batch at a time; one row a file, in order."""
    from rich.console import Console
    from rich.progress import track

    from arcface_pl.cli.inputs import read_pictures

    console = Console(stderr=True)
    step = min(BATCH, LEAST_FOR_BAR) if console.is_terminal else BATCH
    starts = range(0, len(files), step)
    hidden = not console.is_terminal or len(files) < LEAST_FOR_BAR
    for start in track(starts, "reading", console=console, transient=True, disable=hidden):
        batch = files[start : start + step]
        pictures = read_pictures(recognizer.model, batch)
        answers = recognizer.classify(pictures.pixels, threshold=threshold)
        found = dict(zip(pictures.paths, answers, strict=True))
        for file in batch:
            yield {"file": str(file)} | (_answer(found[file]) if file in found else {"error": pictures.errors[file]})


def _answer(found: Any) -> dict[str, Any]:
    angle = math.degrees(math.acos(max(-1.0, min(1.0, found.cosine))))
    return {"label": found.name, "cosine": found.cosine, "angle_degrees": angle, "unknown": found.unknown}


def _print(rows: list[dict[str, Any]], form: str) -> None:
    if form == "json":
        print(json.dumps(rows, indent=2))  # noqa: T201
    elif form == "csv":
        # A file's name need not be text: its bytes come out as they are.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")
        writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {**row, **({"unknown": str(row["unknown"]).lower()} if "unknown" in row else {})} for row in rows
        )
    else:
        _print_table(rows)


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from arcface_pl.cli.inputs import printable

    table = Table("file", "class")
    table.add_column("cosine", justify="right")
    table.add_column("angle", justify="right")
    for row in rows:
        file = escape(printable(row["file"]))
        if "error" in row:
            table.add_row(file, f"[red]{escape(row['error'])}[/red]")
        else:
            name = f"unknown (nearest: {row['label']})" if row["unknown"] else row["label"]
            numbers = (f"{row['cosine']:.4f}", f"{row['angle_degrees']:.1f}\N{DEGREE SIGN}")
            table.add_row(file, escape(name), *numbers)
    Console().print(table)
