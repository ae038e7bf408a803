"""Angles between images and class centers, and between class centers."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from arcface_pl.figures.closest_centers import draw_closest_centers
from arcface_pl.figures.style import MAX_CLASSES, SERIES, draw_share, label_classes, new_figure, shorten, thin
from arcface_pl.metrics.functional import center_angles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEGREES = 180
MAX_WRITTEN = 16  # classes whose cells have room for a number


class AngleHistory(NamedTuple):
    """Histograms of angles after each of E epochs, with one bin per degree.

    Attributes:
        epochs: (E,) int64, number of finished epochs.
        target: (E, 180) int64, images per degree of the angle to their target class.
        nearest_other: (E, 180) int64, images per degree of the angle to the nearest other class.
    """

    epochs: Tensor
    target: Tensor
    nearest_other: Tensor


def count_degrees(angles: Tensor) -> Tensor:
    """Count angles (N,) in degrees into 180 bins of one degree each, (180,) int64; NaN is not counted."""
    bins = torch.where(angles.isnan(), DEGREES, angles.long().clamp(0, DEGREES - 1))
    return torch.bincount(bins, minlength=DEGREES + 1)[:DEGREES]


def draw_angles(target: Tensor, nearest_other: Tensor) -> "Figure":
    """Draw histograms of the angles to the target class and to the nearest other class.

    Args:
        target: (180,) images per degree of the angle to their target class.
        nearest_other: (180,) images per degree of the angle to the nearest other class.

    Returns:
        A new figure.
    """
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    _draw_histograms(axes, target, nearest_other)
    axes.set_title("Angles between images and class centers", fontsize=12)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def draw_angle_history(history: AngleHistory) -> "Figure":
    """Draw the angles to the target class and to the nearest other class over the epochs.

    Args:
        history: Histograms after each epoch, at least one.

    Returns:
        A new figure: medians with the middle 90% on the left, histograms of the last epoch on the right.
    """
    figure = new_figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    epochs = history.epochs.cpu().numpy()
    for counts, style, hatch in ((history.target, SERIES[0], None), (history.nearest_other, SERIES[1], "////")):
        low, middle, high = (_quantile(counts.cpu(), share) for share in (0.05, 0.5, 0.95))
        left.plot(epochs, middle, markersize=5, **style)
        if len(epochs) > 1:
            left.fill_between(epochs, low, high, facecolor=style["color"], edgecolor=style["color"], alpha=0.2,
                              hatch=hatch, linewidth=0)  # fmt: skip
        else:
            # Lists: of an array of one, matplotlib 3.10 asks numpy for what it deprecated
            spread = [(middle - low).tolist(), (high - middle).tolist()]
            left.errorbar(epochs, middle, spread, color=style["color"], capsize=4)
    left.set(xlabel="epoch", ylabel="angle (degrees)", xticks=[epochs[index] for index in thin(len(epochs), 10)])
    left.set_title("During training: median and middle 90%", fontsize=10)
    left.grid(alpha=0.3)
    _draw_histograms(right, history.target[-1], history.nearest_other[-1])
    right.set_title(f"After epoch {epochs[-1]}", fontsize=10)
    figure.suptitle("Angles between images and class centers", fontsize=12)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def draw_center_angles(centers: Tensor, class_names: list[str], sub_centers: int = 1) -> "Figure":
    """Draw the angles between the centers of all pairs of classes.

    Beyond 50 classes a histogram and the closest pairs are drawn instead.

    Args:
        centers: (C * sub_centers, D) the centers of a class adjacent.
        class_names: C names.
        sub_centers: Centers per class; the angle between two classes is that of their nearest centers.

    Returns:
        A new figure.
    """
    count = len(class_names)
    if count > MAX_CLASSES:
        return draw_closest_centers(centers, class_names, sub_centers)
    blocks = torch.rad2deg(center_angles(centers.detach().cpu())).view(count, sub_centers, count, sub_centers)
    angles = blocks.amin(dim=(1, 3)).fill_diagonal_(torch.nan).numpy()
    side = min(7.0, max(3.2, 0.5 * count))
    figure = new_figure(side + 1.4, side + 1.2)
    axes = figure.add_subplot()
    low, high = np.nanmin(angles, initial=180.0), np.nanmax(angles, initial=0.0)
    picture = axes.imshow(angles, cmap="cividis", vmin=min(low, high) - 1, vmax=max(low, high) + 1)
    figure.colorbar(picture, ax=axes, label="angle between two class centers (degrees)", shrink=0.85)
    label_classes(axes, class_names, most=25)
    if count <= MAX_WRITTEN:
        _write_cells(axes, angles)
    axes.set_title(_closest(angles, class_names), fontsize=10, parse_math=False)
    return figure


def _draw_histograms(axes: "Axes", target: Tensor, nearest_other: Tensor) -> None:
    edges = np.arange(DEGREES + 1)
    counts = torch.stack((target, nearest_other)).cpu().numpy()
    for series, label in enumerate(("angle to the target class", "angle to the nearest other class")):
        draw_share(axes, 100 * counts[series] / max(counts[series].sum(), 1), edges, label, series)
    filled = np.flatnonzero(counts.sum(axis=0))
    if len(filled):
        axes.set_xlim(max(0, filled[0] - 5), min(DEGREES, filled[-1] + 6))
    axes.set(xlabel="angle (degrees)", ylabel="images per degree (%)")


def _quantile(counts: Tensor, share: float) -> np.ndarray:
    # Middle of the degree in which the share of images is reached, for each row of (E, 180)
    total = counts.cumsum(1).double()
    return ((total < share * total[:, -1:]).sum(1).clamp_max(DEGREES - 1) + 0.5).numpy()


def _write_cells(axes: "Axes", angles: np.ndarray) -> None:
    low, high = np.nanmin(angles, initial=180.0), np.nanmax(angles, initial=0.0)
    for row, column in np.argwhere(~np.isnan(angles)):
        dark = angles[row, column] < (low + high) / 2
        text = f"{angles[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")


def _closest(angles: np.ndarray, names: list[str]) -> str:
    title = "Angles between class centers"
    if np.isnan(angles).all():
        return title
    row, column = np.unravel_index(np.nanargmin(angles), angles.shape)
    degrees = f"{angles[row, column]:.1f}\N{DEGREE SIGN}"
    return f"{title}\nclosest: {shorten(names[row], among=names)} and {shorten(names[column], among=names)}, {degrees}"
