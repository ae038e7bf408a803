"""Report of the study: settings chosen by validation, tables of test scores, and a figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rows import Row, Spread, cells, choose, heads_of

__all__ = ["write_report"]

MAIN = ("mnist-8-9", 8)
SOFTMAX, ZERO = "LinearHead", "NormalizedSoftmaxHead"
NAMES = {"LinearHead": "softmax (LinearHead)", "NormalizedSoftmaxHead": "softmax on cosines (NormalizedSoftmaxHead)"}


def write_report(rows: Sequence[Row], folder: Path) -> None:
    """Write study.md and study.png.

    Args:
        rows: Finished runs.
        folder: Where to.
    """
    main = [row for row in rows if (row["protocol"], row["num_classes"]) == MAIN]
    if not main:
        return
    parts = [main_table(main), recall_table(main)]
    if confirmed := [row for row in rows if row["protocol"] != MAIN[0]]:
        parts.append(split_table(main + confirmed, main))
    if fewer := [row for row in rows if row["num_classes"] != MAIN[1]]:
        parts.append(scale_table(main, fewer))
    (folder / "study.md").write_text("\n".join(parts), encoding="utf-8")
    draw(main, folder / "study.png")


def main_table(rows: Sequence[Row]) -> str:
    """Lay out every head at the setting that validation chose, on the test images."""
    lines = [
        "| head | margin | scale | trained digits: accuracy % | unseen digits: EER % | TAR % at FAR 0.1% | recall@1 % "
        "| training s | seeds |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    grouped = cells(rows)
    for head in heads_of(rows, *MAIN):
        margin, scale = choose(rows, *MAIN, head)
        found = grouped[(*MAIN, head, margin, scale)]
        accuracy, eer, tar, recall = (
            Spread.of(found, f"test_{name}").percent() for name in ("accuracy", "eer", "tar", "recall")
        )
        seconds = Spread.of(found, "train_seconds")
        shown = f"{scale:g}" if head != SOFTMAX else ""
        lines.append(
            f"| {NAMES.get(head, head)} | {f'{margin:g}' if margin else ''} | {shown} | {accuracy} | {eer} | {tar} "
            f"| {recall} | {seconds.mean:.1f} | {seconds.num_seeds} |"
        )
    return "\n".join(lines) + "\n"


def with_zero(rows: Sequence[Row], head: str) -> list[Row]:
    """Return a head's runs and, as its margin 0, those of the softmax on cosines: it is the same loss."""
    return [{**row, "head": head} for row in rows if row["head"] in (head, ZERO)]


def recall_table(rows: Sequence[Row], head: str = "ArcFaceHead") -> str:
    """Lay out how often an unseen digit's nearest neighbour is of its kind, by margin and scale."""
    grouped = cells(with_zero(rows, head))
    margins, scales = (sorted({cell[place] for cell in grouped}) for place in (3, 4))
    lines = [
        "| unseen digits: recall@1 % | " + " | ".join(f"s = {scale:g}" for scale in scales) + " |",
        "|---|" + "--:|" * len(scales),
    ]
    for margin in margins:
        found = (grouped.get((*MAIN, head, margin, scale), []) for scale in scales)
        shown = (Spread.of(each, "test_recall").percent() if each else "" for each in found)
        lines.append(f"| ArcFace, m = {margin:g} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def split_table(rows: Sequence[Row], main: Sequence[Row]) -> str:
    """Lay out the chosen settings on all five leave-two-out splits: equal error rate of the two unseen digits."""
    heads = heads_of(
        [row for row in rows if row["protocol"] != MAIN[0]],
        next(row["protocol"] for row in rows if row["protocol"] != MAIN[0]),
        MAIN[1],
    )
    chosen = {head: choose(main, *MAIN, head) for head in heads}
    grouped = cells(rows)
    protocols = sorted({row["protocol"] for row in rows if row["num_classes"] == MAIN[1]})
    lines = [
        "| unseen digits: EER % | " + " | ".join(NAMES.get(head, head) for head in heads) + " |",
        "|---|" + "--:|" * len(heads),
    ]
    for protocol in protocols:
        found = [grouped.get((protocol, MAIN[1], head, *chosen[head]), []) for head in heads]
        shown = [Spread.of(each, "test_eer").percent() if each else "" for each in found]
        lines.append(f"| {' and '.join(protocol.split('-')[1:])} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def scale_table(main: Sequence[Row], fewer: Sequence[Row]) -> str:
    """Lay out ArcFace's best margin at each scale, for each number of trained classes."""
    head = "ArcFaceHead"
    sets = {
        row["num_classes"]: [each for each in [*main, *fewer] if each["num_classes"] == row["num_classes"]]
        for row in [*fewer, *main]
    }
    scales = sorted({row["scale"] for row in fewer})
    lines = [
        "| ArcFace, best margin by validation: EER % (margin) | " + " | ".join(f"s = {s:g}" for s in scales) + " |",
        "|---|" + "--:|" * len(scales),
    ]
    for count, rows in sorted(sets.items()):
        shown = []
        for scale in scales:
            here = [row for row in rows if row["scale"] == scale]
            margin, _ = choose(here, MAIN[0], count, head)
            spread = Spread.of([row for row in here if (row["head"], row["margin"]) == (head, margin)], "test_eer")
            shown.append(f"{spread.percent()} ({margin:g})")
        lines.append(f"| {count} digits trained | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw margin x scale for two heads, on both sides of the choice, and every head at its chosen setting."""
    figure = Figure(figsize=(12.5, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 1.25))
    heads = [head for head in ("ArcFaceHead", "CosFaceHead") if any(row["head"] == head for row in rows)]
    values = [
        100 * Spread.of(found, f"{split}_eer").mean
        for cell, found in cells(rows).items()
        for split in ("val", "test")
        if cell[2] in (*heads, ZERO)
    ]
    limits = (min(values), max(values)) if values else (0.0, 1.0)
    image = None
    for line, head in enumerate(heads):
        for column, split in enumerate(("val", "test")):
            axes = figure.add_subplot(grid[line, column])
            image = draw_heatmap(axes, rows, head, split, limits)
            axes.set_title(
                f"{head}, {'training images: chooses' if split == 'val' else 'test images: reported'}", fontsize=10
            )
    if image is not None:
        figure.colorbar(
            image,
            ax=figure.axes,
            location="bottom",
            shrink=0.6,
            aspect=40,
            label="equal error rate of the two unseen digits (%), mean over seeds",
        )
    draw_heads(figure.add_subplot(grid[:, 2]), rows)
    figure.savefig(path, dpi=110)


def draw_heatmap(axes: Axes, rows: Sequence[Row], head: str, split: str, limits: tuple[float, float]) -> Any:
    """Draw the mean equal error rate of a head's settings; a frame marks its lowest by validation."""
    grouped = cells(with_zero(rows, head))
    margins, scales = (sorted({cell[place] for cell in grouped}) for place in (3, 4))
    grid = np.full((len(margins), len(scales)), np.nan)
    for cell, found in grouped.items():
        grid[margins.index(cell[3]), scales.index(cell[4])] = 100 * Spread.of(found, f"{split}_eer").mean
    image = axes.imshow(grid, cmap="cividis", vmin=limits[0], vmax=limits[1], aspect="auto", origin="lower")
    middle = sum(limits) / 2
    for (line, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            axes.text(
                column,
                line,
                f"{value:.1f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if value < middle else "black",
            )
    margin, scale = choose(rows, *MAIN, head)
    corner = (scales.index(scale) - 0.47, margins.index(margin) - 0.47)
    axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor="#D55E00", linewidth=2.5))
    axes.set_xticks(range(len(scales)), [f"{scale:g}" for scale in scales])
    axes.set_yticks(range(len(margins)), [f"{margin:g}" for margin in margins])
    axes.set(xlabel="scale s", ylabel="margin m")
    return image


def draw_heads(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw every seed of every head at its chosen setting, and their mean and deviation."""
    heads = heads_of(rows, *MAIN)[::-1]
    grouped = cells(rows)
    for place, head in enumerate(heads):
        found = grouped[(*MAIN, head, *choose(rows, *MAIN, head))]
        values = [100 * row["test_eer"] for row in found]
        spread = Spread.of(found, "test_eer")
        axes.plot(values, [place] * len(values), "o", color="#0072B2", alpha=0.4, markersize=5)
        axes.errorbar(
            100 * spread.mean, place, xerr=100 * spread.deviation, fmt="D", color="black", capsize=4, markersize=5
        )
        if head == SOFTMAX:
            axes.axvline(100 * spread.mean, color="0.5", linestyle=":")
    names = []
    for head in heads:
        margin, scale = choose(rows, *MAIN, head)
        settings = [f"m {margin:g}"] * (margin > 0) + [f"s {scale:g}"] * (head != SOFTMAX)
        names.append("\n".join([head.removesuffix("Head"), ", ".join(settings)]).strip())
    axes.set_yticks(range(len(heads)), names, fontsize=9)
    axes.set_xlabel("test images: equal error rate (%)\none dot a seed; mean and deviation")
    axes.set_title("each head at its chosen setting", fontsize=10)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
