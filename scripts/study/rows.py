"""Finished runs of the study: its CSV, means over seeds, and the choice on held-out alphabets."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["CELL", "SCORES", "Row", "Spread", "append_row", "cells", "choose", "chosen", "gain", "read_rows"]

Row = dict[str, Any]
SCORES = ("eer", "recall", "one_enrolled", "five_enrolled", "one_shot")
CELL = ("num_classes", "embedding_dim", "sub_centers", "head", "margin", "scale")


class Spread(NamedTuple):
    """Mean and sample standard deviation over the seeds."""

    mean: float
    deviation: float
    num_seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarize the seeds."""
        return cls(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))

    @property
    def percent(self) -> str:
        """Both in percent; the mean alone of a single seed."""
        return f"{100 * self.mean:.2f}{self._spread}"

    @property
    def signed(self) -> str:
        """Both in percentage points, for a difference."""
        return f"{100 * self.mean:+.2f}{self._spread}"

    @property
    def _spread(self) -> str:
        return f" ± {100 * self.deviation:.2f}" if self.num_seeds > 1 else ""


def cells(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Group the runs that differ in their seed only."""
    grouped = defaultdict(list)
    for row in rows:
        grouped[tuple(row[name] for name in CELL)].append(row)
    return grouped


def choose(
    rows: Sequence[Row], head: str, *, num_classes: int, embedding_dim: int = 64, sub_centers: int = 1
) -> tuple[float, float] | None:
    """Return the margin and scale that give the held-out alphabets the highest mean recall@1; None without runs.

    Only settings that ran with the most seeds take part: the mean of a few is too often the highest. The whole
    background leaves no alphabet to choose on: the choice for the most characters that do is taken.
    """
    judged = {row["num_classes"] for row in rows if row["val_recall"]}
    if judged and num_classes not in judged:
        num_classes = max(judged)
    wanted = (num_classes, embedding_dim, sub_centers, head)
    mine = {cell[4:]: found for cell, found in cells(rows).items() if cell[:4] == wanted}
    most = max(map(len, mine.values()), default=0)
    mine = {setting: found for setting, found in mine.items() if len(found) == most}
    recall = {setting: statistics.mean(row["val_recall"] for row in found) for setting, found in mine.items()}
    return max(recall, key=recall.__getitem__, default=None)


def chosen(rows: Sequence[Row], head: str, **where: int) -> list[Row]:
    """Return the runs of a head at its chosen margin and scale, by seed; ``where`` are arguments of `choose`."""
    where = {"embedding_dim": 64, "sub_centers": 1, **where}
    setting = choose(rows, head, **where)
    if setting is None:
        return []
    wanted = {**where, "head": head, "margin": setting[0], "scale": setting[1]}
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return sorted(found, key=lambda row: row["seed"])


def gain(rows: Sequence[Row], others: Sequence[Row], score: str) -> Spread | None:
    """Return how much higher a score is with one setting than with another, over the seeds that both have."""
    before = {row["seed"]: row[score] for row in others}
    gains = [row[score] - before[row["seed"]] for row in rows if row["seed"] in before]
    return Spread.of(gains) if gains else None


def read_rows(path: Path, epochs: int) -> list[Row]:
    """Read the finished runs of this length."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file)]
    return [row for row in rows if row["epochs"] == epochs]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def append_row(path: Path, row: Row) -> None:
    """Add a finished run to the CSV; scores have five digits."""
    is_new = not path.is_file()
    scores = {
        name: f"{value:.5f}" for name, value in row.items() if name.startswith(("val_", "test_")) and value is not None
    }
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        if is_new:
            writer.writeheader()
        writer.writerow({**row, **scores})
