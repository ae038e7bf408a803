"""Which class is taken for which."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from arcface_pl.figures.style import SERIES, label_classes, new_figure, shorten

__all__ = ["draw_confusion"]

# Beyond this many classes no cell can be read.
MAX_CELLS = 50
NUM_BARS = 25


def draw_confusion(counts: Tensor, class_names: list[str], split: str) -> Figure:
    """Draw a confusion matrix: counts in the cells, colour by the share of the true class.

    Beyond 50 classes, where no cell could be read, the most frequent confusions are drawn as bars.

    Args:
        counts: (C, C) integers, true class by predicted class.
        class_names: C names.
        split: What was counted, for the title.

    Returns:
        A figure of its own.
    """
    right, total = int(counts.trace()), int(counts.sum())
    title = f"{split}: {right:,} of {total:,} right"
    cells = counts.cpu().numpy()
    return _draw_cells(cells, class_names, title) if len(cells) <= MAX_CELLS else _draw_bars(cells, class_names, title)


def _draw_cells(counts: np.ndarray, class_names: list[str], title: str) -> Figure:
    side = 0.36 * max(len(counts), 4)
    # Small, so that the figures can be read in the thumbnails of TensorBoard's Images tab.
    figure = new_figure(side + 1.5, side + 1.0)
    axes = figure.add_subplot()
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The square root lets a handful of errors show beside a diagonal near 100%.
    picture = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
    figure.colorbar(picture, ax=axes, label="share of the true class (%)", ticks=[0, 1, 10, 50, 100])
    for row, column in np.argwhere(counts):
        colour = "white" if share[row, column] > 30 else "black"
        text = str(counts[row, column])
        axes.text(column, row, text, ha="center", va="center", fontsize=8 - max(0, len(text) - 3), color=colour)
    label_classes(axes, class_names, axis="x", most=MAX_CELLS)
    label_classes(axes, class_names, axis="y", most=MAX_CELLS)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(title)
    return figure


def _draw_bars(counts: np.ndarray, class_names: list[str], title: str) -> Figure:
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
    axes: Axes, counts: np.ndarray, values: np.ndarray, indices: np.ndarray, class_names: list[str]
) -> None:
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
