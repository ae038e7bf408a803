"""Table and figure of the results on LFW and ORL."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from view2 import RATES

from arcface_pl.figures.style import SERIES, new_figure, save

Rows = list[dict[str, Any]]
SCORES = ("accuracy", "eer", "orl_eer", "orl_rank_1_of_1_enrolled")
# LFW's results page, http://vis-www.cs.umass.edu/lfw/results.html, unrestricted training
PUBLISHED = {"LDML-MkNN, funneled": 0.8750, "LBP multishot, aligned": 0.8517, "Combined multishot, aligned": 0.8950}


def table(rows: Rows, chosen_on: int) -> str:
    """Return a Markdown table: a row per head over all folds, and one without the fold that chose the settings."""
    lines = [
        "| trained with | folds | seeds | LFW accuracy | LFW EER | ORL EER | ORL rank 1 |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for head in heads_of(rows):
        own = [row for row in rows if row["head"] == head]
        lines.append(_line(head, own))
        others = [row for row in own if row["fold"] != chosen_on]
        if 0 < len(others) < len(own):
            lines.append(_line(f"{head}, without fold {chosen_on}", others))
    return "\n".join(lines)


def _line(name: str, rows: Rows) -> str:
    seeds, folds = (len({row[key] for row in rows}) for key in ("seed", "fold"))
    return f"| {name} | {folds} | {seeds} | {' | '.join(mean_and_error(rows, score) for score in SCORES)} |"


def heads_of(rows: Rows) -> Sequence[str]:
    """Return the heads in order of appearance."""
    return list(dict.fromkeys(row["head"] for row in rows))


def by_fold(rows: Rows, score: str) -> dict[int, float]:
    """Return the mean over the seeds of each fold, in percent."""
    folds = sorted({row["fold"] for row in rows if score in row})
    return {fold: 100 * statistics.mean(row[score] for row in rows if row["fold"] == fold) for fold in folds}


def mean_and_error(rows: Rows, score: str) -> str:
    """Return the mean over the folds in percent, and its standard error, of means over the seeds."""
    values = list(by_fold(rows, score).values())
    if not values:
        return ""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.2f} ± {error:.2f}"


def draw(rows: Rows, path: Path) -> None:
    """Draw the mean ROC over the test folds, and the accuracy of each fold."""
    figure = new_figure(11, 4.4)
    curves, dots = figure.subplots(1, 2)
    for style, head in zip(SERIES, heads_of(rows), strict=False):
        own = [row for row in rows if row["head"] == head]
        tar = 100 * torch.tensor([row["tar"] for row in own], dtype=torch.float64)
        curves.plot(RATES, tar.mean(0), linewidth=1.8, label=head, color=style["color"], linestyle=style["linestyle"])
        curves.fill_between(RATES, tar.amin(0), tar.amax(0), color=style["color"], alpha=0.15, linewidth=0)
        accuracy = by_fold(own, "accuracy")
        label = f"{head}: {mean_and_error(own, 'accuracy')}"
        dots.plot(list(accuracy), list(accuracy.values()), markersize=8, label=label, **{**style, "linestyle": "none"})
    for style, (name, value) in zip(SERIES[3:], PUBLISHED.items(), strict=False):
        dots.axhline(100 * value, color=style["color"], linestyle=style["linestyle"], linewidth=1, label=name)
    curves.set(xscale="log", xlim=(1 / 300, 1), ylim=(0, 100), xlabel="false accept rate", ylabel="true accept rate, %")
    curves.set_title("LFW, view 2: mean and range over folds and seeds", fontsize=11)
    dots.set(xlabel="test fold", ylabel="accuracy, %", xticks=sorted({row["fold"] for row in rows}))
    dots.set_title("accuracy, threshold from the next fold, mean over seeds", fontsize=11)
    for axes in (curves, dots):
        axes.grid(alpha=0.3)
        axes.legend(framealpha=0.9, edgecolor="none", fontsize=9)
    save(figure, path)
