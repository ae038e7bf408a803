"""Finished runs of the study: its CSV, means over seeds, and the choice by validation."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Row", "Spread", "append_row", "cells", "choose", "heads_of", "read_rows"]

Row = dict[str, Any]
CELL = ("protocol", "num_classes", "head", "margin", "scale")


class Spread(NamedTuple):
    """Mean and sample standard deviation over the seeds."""

    mean: float
    deviation: float
    num_seeds: int

    @classmethod
    def of(cls, rows: Sequence[Row], key: str) -> "Spread":
        """Summarise a column."""
        values = [float(row[key]) for row in rows]
        return cls(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))

    def percent(self) -> str:
        """Write both in per cent."""
        return f"{100 * self.mean:.2f} ± {100 * self.deviation:.2f}"


def cells(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Group the runs that differ in their seed only."""
    grouped = defaultdict(list)
    for row in rows:
        grouped[tuple(row[name] for name in CELL)].append(row)
    return grouped


def choose(rows: Sequence[Row], protocol: str, num_classes: int, head: str) -> tuple[float, float]:
    """Return the margin and scale whose unseen digits' training images have the lowest mean equal error rate.

    Only settings that ran with the most seeds take part: the mean of a few is too often the lowest.
    """
    mine = {cell[3:]: found for cell, found in cells(rows).items() if cell[:3] == (protocol, num_classes, head)}
    most = max(map(len, mine.values()))
    means = {setting: Spread.of(found, "val_eer").mean for setting, found in mine.items() if len(found) == most}
    return min(means, key=lambda setting: means[setting])


def heads_of(rows: Sequence[Row], protocol: str, num_classes: int) -> list[str]:
    """Return the heads that were run, in the order of their first run."""
    return list(
        dict.fromkeys(row["head"] for row in rows if (row["protocol"], row["num_classes"]) == (protocol, num_classes))
    )


def read_rows(path: Path, dataset: str, epochs: int) -> list[Row]:
    """Read the finished runs of this data set and length."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file)]
    return [row for row in rows if (row["dataset"], row["epochs"]) == (dataset, epochs)]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def append_row(path: Path, row: Row) -> None:
    """Add a finished run to the CSV."""
    is_new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        if is_new:
            writer.writeheader()
        writer.writerow(row)
