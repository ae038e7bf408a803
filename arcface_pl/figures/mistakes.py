"""The mistakes that a network was surest of, with their images."""

import math
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from arcface_pl.figures.images import displayable
from arcface_pl.figures.style import new_figure, shorten

__all__ = ["Mistakes", "draw_mistakes"]

COLUMNS = 6


class Mistakes(NamedTuple):
    """Images with the class they are of and the class they were taken for.

    Attributes:
        images: (N, C, H, W).
        labels: (N,) int64, the true class.
        predictions: (N,) int64, what each was taken for.
        target_angle: (N,) angle to the center of the true class, degrees.
        predicted_angle: (N,) angle to the center of the class it was taken for, degrees.
    """

    images: Tensor
    labels: Tensor
    predictions: Tensor
    target_angle: Tensor
    predicted_angle: Tensor

    def hardest(self, most: int) -> "Mistakes":
        """Keep the ``most`` that lie deepest in a wrong class: own angle minus the wrong one's, largest first.

        What is right among them comes last: to leave it out is for `wrong_only`, which waits for the device.
        """
        depth = (self.target_angle - self.predicted_angle).double()
        depth = depth.masked_fill(self.labels == self.predictions, -torch.inf)
        kept = depth.argsort(descending=True, stable=True)[:most]
        return Mistakes(*(each[kept] for each in self))

    def wrong_only(self) -> "Mistakes":
        """Leave out what is right."""
        return Mistakes(*(each[self.labels != self.predictions] for each in self))

    def joined(self, others: "Mistakes") -> "Mistakes":
        """Return these and others."""
        return Mistakes(*(torch.cat(pair) for pair in zip(self, others, strict=True)))


def draw_mistakes(mistakes: Mistakes, class_names: list[str], *, num_wrong: int, num_images: int) -> Figure:
    """Draw the hardest mistakes, each with what it is, what it was taken for, and the angle to either.

    Args:
        mistakes: Those to show, the hardest first, all of them wrong.
        class_names: C names.
        num_wrong: Mistakes there were in all.
        num_images: Images there were in all.

    Returns:
        A figure of its own; without a mistake one that says so.
    """
    if not len(mistakes.labels):
        figure = new_figure(6.4, 1.6)
        figure.text(0.5, 0.5, f"No mistakes among {num_images:,} images", ha="center", va="center", fontsize=14)
        return figure
    columns = min(COLUMNS, max(4, len(mistakes.labels)))  # with fewer the title would be wider than its figure
    rows = math.ceil(len(mistakes.labels) / columns)
    figure = new_figure(1.7 * columns, 2.2 * rows + 0.8)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    images = displayable(mistakes.images).permute(0, 2, 3, 1).cpu().numpy()
    for index, axes in zip(range(len(images)), grid, strict=False):
        _draw_one(axes, images[index], Mistakes(*(each[index] for each in mistakes)), class_names)
    shown = f"The {len(images)} hardest of {num_wrong:,} mistakes"
    if num_wrong == len(images):
        shown = f"All {num_wrong:,} mistakes" if num_wrong > 1 else "The only mistake"
    caption = "below: angle to the center of the own class, and of the class it was taken for"
    figure.suptitle(f"{shown} among {num_images:,} images\n{caption}", fontsize=11)
    return figure


def _draw_one(axes: Axes, image: np.ndarray, mistake: Mistakes, class_names: list[str]) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    own, taken = (shorten(class_names[int(each)]) for each in (mistake.labels, mistake.predictions))
    is_short = len(own) + len(taken) < 8
    title = f"is {own},{' ' if is_short else chr(10)}taken for {taken}"
    axes.set_title(title, fontsize=9 if is_short else 7.5, parse_math=False)
    caption = f"own {mistake.target_angle:.0f}\N{DEGREE SIGN}, taken {mistake.predicted_angle:.0f}\N{DEGREE SIGN}"
    axes.text(0.5, -0.04, caption, transform=axes.transAxes, ha="center", va="top", fontsize=8)
