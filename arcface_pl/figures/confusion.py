"""Confusion matrix."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from arcface_pl.figures.style import MAX_CLASSES, draw_bars, label_classes, new_figure, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_BARS = 25


def count_confusions(labels: Tensor, predictions: Tensor, num_classes: int, counts: Tensor | None = None) -> Tensor:
    """Count images by true and predicted class.

    Args:
        labels: (N,) int64 in [0, C).
        predictions: (N,) int64 in [0, C).
        num_classes: C.
        counts: (N,) int64, number of images of each pair; None for one each.

    Returns:
        (C, C) int64, sparse: memory grows with the pairs that occur, not with the square of the classes.
    """
    places, counts = torch.stack((labels, predictions)), torch.ones_like(labels) if counts is None else counts
    with torch.sparse.check_sparse_tensor_invariants(True):  # torch warns unless it is told
        return torch.sparse_coo_tensor(places, counts, (num_classes, num_classes)).coalesce()  # sums equal pairs


def worst_confusions(counts: Tensor) -> list[tuple[int, int, int, float]]:
    """Return the most frequent confusions, most frequent first, of equal ones by class.

    Args:
        counts: (C, C) int64, dense, or sparse and coalesced.

    Returns:
        True class, predicted class, number of images, and their share of the true class's images, of each.
    """
    counts = counts.cpu()
    rows, columns = counts.indices() if counts.is_sparse else counts.nonzero().T
    values = counts.values() if counts.is_sparse else counts[rows, columns]
    sizes = torch.zeros(len(counts), dtype=torch.int64).index_add_(0, rows, values)
    off = ((rows != columns) & (values > 0)).nonzero().squeeze(1)
    chosen = off[values[off].argsort(descending=True, stable=True)]
    found = zip(*(each[chosen].tolist() for each in (rows, columns, values)), sizes[rows[chosen]].tolist(), strict=True)
    return [(row, column, value, value / size) for row, column, value, size in found]


def draw_confusion(counts: Tensor, class_names: list[str], split: str) -> "Figure":
    """Draw a confusion matrix with counts, colored by the share of the true class.

    Beyond 50 classes the most frequent confusions are drawn as bars instead.

    Args:
        counts: (C, C) integers, true class by predicted class, dense or sparse.
        class_names: C names.
        split: Name of the split, for the title.

    Returns:
        A new figure.
    """
    worst = worst_confusions(counts)
    total = int(counts.sum())
    title = f"{split}: {total - sum(count for _, _, count, _ in worst):,} of {total:,} correct"
    if len(counts) <= MAX_CLASSES:
        return _draw_cells(counts.cpu().to_dense().numpy(), class_names, title)
    return _draw_bars(worst, class_names, title)


def _draw_cells(counts: np.ndarray, class_names: list[str], title: str) -> "Figure":
    from matplotlib.colors import PowerNorm

    side = max(0.36 * min(len(counts), 20), 0.28 * len(counts), 2.2)
    # Small, so that the numbers are legible in TensorBoard's thumbnails
    figure = new_figure(side + 1.5, side + 1.0)
    axes = figure.add_subplot()
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The square root makes a handful of errors visible next to a diagonal near 100%
    picture = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
    figure.colorbar(
        picture, ax=axes, label="share of the true class (%)", ticks=[0, 1, 10, 50, 100], shrink=0.9, aspect=8 * side
    )
    for row, column in np.argwhere(counts):
        color = "white" if share[row, column] > 30 else "black"
        text = str(counts[row, column])
        axes.text(column, row, text, ha="center", va="center", fontsize=8 - max(0, len(text) - 3), color=color)
    label_classes(axes, class_names, most=MAX_CLASSES)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(title)
    return figure


def _draw_bars(worst: list[tuple[int, int, int, float]], class_names: list[str], title: str) -> "Figure":
    from matplotlib.ticker import MaxNLocator

    shown = worst[:NUM_BARS]
    figure = new_figure(7.0, 1.4 + 0.2 * len(shown))
    axes = figure.add_subplot()
    if not worst:
        axes.set_title(f"{title}\nno class of {len(class_names):,} was taken for another", fontsize=11)
        axes.set_axis_off()
        return figure
    names = [
        ", taken for ".join(shorten(class_names[each], among=class_names) for each in (row, column))
        for row, column, *_ in shown
    ]
    notes = [f"{count:,} ({100 * share:.3g}% of the class)" for _, _, count, share in shown]
    draw_bars(axes, [count for _, _, count, _ in shown], names, notes, room=1.7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    which = f"{len(shown)} of {len(worst):,}" if len(shown) < len(worst) else f"{len(worst)}"
    pairs, order = ("confused pairs", ", most images first") if len(worst) > 1 else ("confused pair", "")
    axes.set_title(f"{title}\n{which} {pairs} among {len(class_names):,} classes{order}", fontsize=11)
    axes.set_xlabel("images")
    return figure
