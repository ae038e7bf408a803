"""Confusion matrix."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from arcface_pl.figures.style import SERIES, label_classes, new_figure, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Cells of more classes cannot be read
MAX_CELLS = 50
NUM_BARS = 25


def draw_confusion(counts: Tensor, class_names: list[str], split: str) -> "Figure":
    """Draw a confusion matrix with counts, colored by the share of the true class.

    Beyond 50 classes the most frequent confusions are drawn as bars instead.

    Args:
        counts: (C, C) integers, true class by predicted class.
        class_names: C names.
        split: Name of the split, for the title.

    Returns:
        A new figure.
    """
    right, total = int(counts.trace()), int(counts.sum())
    title = f"{split}: {right:,} of {total:,} correct"
    cells = counts.cpu().numpy()
    return _draw_cells(cells, class_names, title) if len(cells) <= MAX_CELLS else _draw_bars(cells, class_names, title)


def _draw_cells(counts: np.ndarray, class_names: list[str], title: str) -> "Figure":
    from matplotlib.colors import PowerNorm

    side = 0.36 * max(len(counts), 4)
    # Small, so that the numbers are legible in TensorBoard's thumbnails
    figure = new_figure(side + 1.5, side + 1.0)
    axes = figure.add_subplot()
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The square root makes a handful of errors visible next to a diagonal near 100%
    picture = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
    figure.colorbar(picture, ax=axes, label="share of the true class (%)", ticks=[0, 1, 10, 50, 100])
    for row, column in np.argwhere(counts):
        color = "white" if share[row, column] > 30 else "black"
        text = str(counts[row, column])
        axes.text(column, row, text, ha="center", va="center", fontsize=8 - max(0, len(text) - 3), color=color)
    label_classes(axes, class_names, axis="x", most=MAX_CELLS)
    label_classes(axes, class_names, axis="y", most=MAX_CELLS)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(title)
    return figure


def _draw_bars(counts: np.ndarray, class_names: list[str], title: str) -> "Figure":
    figure = new_figure(7.0, 6.4)
    axes = figure.add_subplot()
    axes.set_title(title)
    off = torch.from_numpy(counts).clone().fill_diagonal_(0).flatten()
    most = off.topk(min(NUM_BARS, int((off > 0).sum())))
    if not len(most.values):
        axes.text(0.5, 0.5, f"No class of {len(counts):,} was taken for another", ha="center", va="center")
        axes.set_axis_off()
        return figure
    _label_bars(axes, counts, most.values.numpy(), most.indices.numpy(), class_names)
    axes.set_title(
        f"{title}\nthe {len(most.values)} most frequent confusions among {len(counts):,} classes", fontsize=11
    )
    axes.set_xlabel("images")
    return figure


def _label_bars(
    axes: "Axes", counts: np.ndarray, values: np.ndarray, indices: np.ndarray, class_names: list[str]
) -> None:
    from matplotlib.ticker import MaxNLocator

    rows, columns = indices // len(counts), indices % len(counts)
    position = np.arange(len(values))
    axes.barh(position, values, color=SERIES[0]["color"])
    names = [f"{shorten(class_names[row])}, taken for {shorten(class_names[column])}" for row, column in
             zip(rows, columns, strict=True)]  # fmt: skip
    axes.set_yticks(position, names, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for at, (value, row) in enumerate(zip(values, rows, strict=True)):
        share = 100 * value / counts[row].sum()
        axes.text(value, at, f" {value:,} ({share:.3g}% of the class)", va="center", fontsize=8)
    axes.set_xlim(0, 1.7 * values.max())
    axes.spines[["top", "right"]].set_visible(False)
