"""Report of the study: tables of the evaluation alphabets' scores, and a figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rows import Row, Spread, cells, choose, chosen, gain

from arcface_pl.figures.style import SERIES

__all__ = ["write_report"]

SOFTMAX, COSINE, ARCFACE = BASE = ("LinearHead", "NormalizedSoftmaxHead", "ArcFaceHead")
NAMES = {SOFTMAX: "softmax (LinearHead)", COSINE: "softmax on cosines (NormalizedSoftmaxHead)"}
SHORT = {SOFTMAX: "softmax", COSINE: "softmax on cosines", ARCFACE: "ArcFace"}
TITLES = {
    "test_recall": "recall@1 %",
    "test_eer": "EER %",
    "test_one_enrolled": "one enrolled %",
    "test_five_enrolled": "five enrolled %",
    "test_one_shot": "one-shot runs %",
}


def write_report(rows: Sequence[Row], folder: Path) -> None:
    """Write study.md and study.png.

    Args:
        rows: Finished runs.
        folder: Where to.
    """
    plain = [row for row in rows if row["embedding_dim"] == 64 and row["sub_centers"] == 1]
    counts = sorted({row["num_classes"] for row in plain})
    # The number of characters that all heads were tried with
    main = max(counts, key=lambda count: len({row["head"] for row in plain if row["num_classes"] == count}), default=0)
    if not main:
        return
    tables = [
        heads_table(rows, main),
        margin_table(rows, main, "test_recall"),
        margin_table(rows, main, "test_eer"),
        classes_table(rows, counts),
        variants_table(rows, main),
    ]
    (folder / "study.md").write_text("\n".join(tables), encoding="utf-8")
    draw(rows, main, counts, folder / "study.png")


def layout(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table whose first column is text."""
    separator = "|---|" + "--:|" * (len(header) - 1)
    return "\n".join(["| " + " | ".join(header) + " |", separator, *("| " + " | ".join(x) + " |" for x in lines), ""])


def setting_of(row: Row) -> str:
    """Name margin and scale, where the head has them."""
    settings = [f"m {row['margin']:g}"] * (row["margin"] > 0) + [f"s {row['scale']:g}"] * (row["head"] != SOFTMAX)
    return ", ".join(settings)


def heads_of(rows: Sequence[Row], count: int) -> list[str]:
    """Return the heads that were run, those without a margin first."""
    return sorted(
        {row["head"] for row in rows if row["num_classes"] == count}, key=lambda head: ([*BASE, head].index(head), head)
    )


def shown(rows: Sequence[Row], score: str) -> str:
    """Write mean and deviation of a score, in percent."""
    return Spread.of([row[score] for row in rows]).percent if rows else ""


def heads_table(rows: Sequence[Row], count: int) -> str:
    """Lay out every head at the setting that the held-out alphabets chose."""
    lines = []
    for head in heads_of(rows, count):
        found = chosen(rows, head, num_classes=count)
        if found:
            scores = (shown(found, score) for score in TITLES)
            lines.append([NAMES.get(head, head), setting_of(found[0]), *scores, str(len(found))])
    return layout(["head", "chosen", *TITLES.values(), "seeds"], lines)


def with_zero(rows: Sequence[Row]) -> list[Row]:
    """Return ArcFace's runs and, as its margin 0, those of the softmax on cosines: it is the same loss."""
    return [{**row, "head": ARCFACE} for row in rows if row["head"] in (ARCFACE, COSINE)]


def margin_cells(rows: Sequence[Row], count: int) -> dict[tuple[float, float], list[Row]]:
    """Return the runs of ArcFace by margin and scale, at 64 dimensions and without sub-centers."""
    return {cell[4:]: found for cell, found in cells(with_zero(rows)).items() if cell[:3] == (count, 64, 1)}


def margin_table(rows: Sequence[Row], count: int, score: str) -> str:
    """Lay out a score by ArcFace's margin and scale."""
    grouped = margin_cells(rows, count)
    margins, scales = (sorted({cell[place] for cell in grouped}) for place in (0, 1))
    lines = [
        [f"ArcFace, m = {margin:g}", *(shown(grouped.get((margin, s), []), score) for s in scales)]
        for margin in margins
    ]
    return layout([TITLES[score], *(f"s = {scale:g}" for scale in scales)], lines)


def classes_table(rows: Sequence[Row], counts: Sequence[int]) -> str:
    """Lay out softmax and ArcFace by the number of trained characters, each at its chosen setting."""
    lines = []
    for count in counts:
        linear, cosine, arcface = (chosen(rows, head, num_classes=count) for head in BASE)
        for score in ("test_recall", "test_eer"):
            cells_of = [
                f"{shown(each, score)} ({setting})" if (setting := setting_of(each[0])) else shown(each, score)
                for each in (linear, cosine, arcface)
                if each
            ]
            gains = [gain(arcface, others, score) for others in (linear, cosine)]
            lines.append([f"{count}, {TITLES[score]}", *cells_of, *(each.signed if each else "" for each in gains)])
    header = ["trained characters", *(SHORT[head] for head in BASE), "ArcFace - softmax", "ArcFace - cosines"]
    return layout(header, lines)


def variants_table(rows: Sequence[Row], count: int) -> str:
    """Lay out other widths of the embeddings, and sub-centers."""
    lines = []
    for dim in sorted({row["embedding_dim"] for row in rows}):
        for head in BASE:
            for sub_centers in (1, 3):
                where = {"num_classes": count, "embedding_dim": dim, "sub_centers": sub_centers}
                if found := chosen(rows, head, **where):
                    name = f"{SHORT[head]}, {dim} dimensions" + f", {sub_centers} sub-centers" * (sub_centers > 1)
                    lines.append([name, setting_of(found[0]), *(shown(found, score) for score in TITLES)])
    return layout(["variant", "chosen", *TITLES.values()], lines)


def draw(rows: Sequence[Row], count: int, counts: Sequence[int], path: Path) -> None:
    """Draw ArcFace's margin by scale, every head at its chosen setting, and the number of trained characters."""
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1.2, 1))
    for line, (split, title) in enumerate((("val", "held-out alphabets: choose"), ("test", "evaluation: reported"))):
        axes = figure.add_subplot(grid[line, 0])
        draw_margins(axes, rows, count, f"{split}_recall")
        axes.set_title(f"ArcFace, {title}\nrecall@1 (%), mean over seeds", fontsize=10)
    draw_heads(figure.add_subplot(grid[:, 1]), rows, count)
    for line, score in enumerate(("test_recall", "test_eer")):
        draw_classes(figure.add_subplot(grid[line, 2]), rows, counts, score)
    figure.savefig(path, dpi=110)


def draw_margins(axes: Axes, rows: Sequence[Row], count: int, score: str) -> None:
    """Draw a score by margin and scale; a frame marks the setting that was chosen."""
    grouped = margin_cells(rows, count)
    margins, scales = (sorted({cell[place] for cell in grouped}) for place in (0, 1))
    grid = np.full((len(margins), len(scales)), np.nan)
    for (margin, scale), found in grouped.items():
        grid[margins.index(margin), scales.index(scale)] = 100 * Spread.of([row[score] for row in found]).mean
    axes.imshow(grid, cmap="cividis", aspect="auto", origin="lower")
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2 if grid.size else 0
    for (line, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            color = "white" if value < middle else "black"
            axes.text(column, line, f"{value:.1f}", ha="center", va="center", fontsize=9, color=color)
    setting = choose(with_zero(rows), ARCFACE, num_classes=count)
    if setting is not None:
        corner = (scales.index(setting[1]) - 0.47, margins.index(setting[0]) - 0.47)
        axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor="#D55E00", linewidth=2.5))
    axes.set_xticks(range(len(scales)), [f"{scale:g}" for scale in scales])
    axes.set_yticks(range(len(margins)), [f"{margin:g}" for margin in margins])
    axes.set(xlabel="scale s", ylabel="margin m")


def draw_heads(axes: Axes, rows: Sequence[Row], count: int) -> None:
    """Draw every seed of every head at its chosen setting, and their mean and deviation."""
    names = []
    for place, head in enumerate(heads_of(rows, count)[::-1]):
        found = chosen(rows, head, num_classes=count)
        values = [100 * row["test_recall"] for row in found]
        spread = Spread.of(values)
        axes.plot(values, [place] * len(values), "o", color="#0072B2", alpha=0.4, markersize=5)
        axes.errorbar(spread.mean, place, xerr=spread.deviation, fmt="D", color="black", capsize=4, markersize=5)
        if head == SOFTMAX:
            axes.axvline(spread.mean, color="0.5", linestyle=":")
        names.append("\n".join([head.removesuffix("Head"), setting_of(found[0])]).strip())
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_xlabel("recall@1 of the evaluation alphabets (%)\none dot per seed; mean and deviation; dotted: softmax")
    axes.set_title(f"each head at its chosen setting, {count} characters trained", fontsize=10)
    axes.grid(axis="x", alpha=0.3)


def draw_classes(axes: Axes, rows: Sequence[Row], counts: Sequence[int], score: str) -> None:
    """Draw how much better ArcFace is than softmax, by the number of trained characters, with the deviation."""
    sign, name = (-1, "EER saved") if score == "test_eer" else (1, "recall@1 gained")
    for shift, style, other in zip((-0.06, 0.06), SERIES, (SOFTMAX, COSINE), strict=False):
        gains = [gain(*(chosen(rows, head, num_classes=count) for head in (ARCFACE, other)), score) for count in counts]
        found = [(place + shift, spread) for place, spread in enumerate(gains) if spread]
        mean = [100 * sign * spread.mean for _, spread in found]
        error = [100 * spread.deviation for _, spread in found]
        kwargs: dict[str, Any] = {"capsize": 3, "markersize": 5, "label": f"over {SHORT[other]}", **style}
        axes.errorbar([place for place, _ in found], mean, yerr=error, **kwargs)
    axes.axhline(0, color="0.4", linewidth=1)
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set(xlabel="trained characters", ylabel=f"{name} (points)")
    axes.set_title(f"ArcFace: {name}\nbars: deviation over seeds", fontsize=10)
    axes.grid(alpha=0.3)
    if sign > 0:  # the legend of both panels
        axes.legend(frameon=False, fontsize=9)
