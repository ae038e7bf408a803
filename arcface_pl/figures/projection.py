"""Embeddings of any width, projected to the plane."""

from typing import TYPE_CHECKING

import numpy as np

from arcface_pl.figures.fonts import is_drawable
from arcface_pl.figures.style import CLASS_COLORS, new_figure, shorten, write_apart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_NAMED = 60


def draw_projection(points: np.ndarray, classes: list[str], method: str, num_images: int) -> "Figure":
    """Draw points, colored and named by class; of many classes the largest are named where there is room.

    Args:
        points: (N, 2).
        classes: Class of each; empty text if unknown.
        method: How they were projected, for the title.
        num_images: Number of images that the points were drawn from.

    Returns:
        A new figure.
    """
    figure = new_figure(8.0, 7.6)
    axes = figure.add_subplot()
    labels = np.array(classes)
    names, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    size = float(np.clip(12_000 / max(len(points), 1), 3, 30))
    colors = [CLASS_COLORS[place % len(CLASS_COLORS)] if names[place] else "0.6" for place in places]
    axes.scatter(points[:, 0], points[:, 1], s=size, c=colors, alpha=0.6, linewidths=0, rasterized=True)
    named = [name for name in names[np.argsort(-counts, kind="stable")][:MAX_NAMED] if name]
    outline = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    known = [each for each in names if each]
    middles = [np.median(points[labels == name], axis=0).tolist() for name in named]
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    shown = f"{len(points):,} images" if len(points) == num_images else f"{len(points):,} of {num_images:,} images"
    classes_shown = f", {len(names):,} classes" if any(names) else ""
    axes.set_title(f"{method} of embeddings: {shown}{classes_shown}\nneighbors are alike; axes and distances "
                   "between groups mean nothing", fontsize=10)  # fmt: skip
    # The class's number is not known here
    shown_names = [shorten(name, among=known if is_drawable(name) else ()) for name in named]
    wanted = [(name, [(x, y, "center")]) for name, (x, y) in zip(shown_names, middles, strict=True)]
    write_apart(axes, wanted, fontsize=11 if len(named) <= 20 else 7, bbox=outline)
    return figure
