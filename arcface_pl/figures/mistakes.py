"""The worst mistakes of a classifier, with their images."""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from arcface_pl.figures.images import displayable
from arcface_pl.figures.style import new_figure, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 6


class Mistakes(NamedTuple):
    """Images with their true and their predicted class.

    Attributes:
        images: (N, C, H, W).
        labels: (N,) int64, true class.
        predictions: (N,) int64, predicted class.
        target_angle: (N,) angle to the center of the true class, degrees.
        predicted_angle: (N,) angle to the center of the predicted class, degrees.
    """

    images: Tensor
    labels: Tensor
    predictions: Tensor
    target_angle: Tensor
    predicted_angle: Tensor

    def hardest(self, most: int) -> "Mistakes":
        """Keep the ``most`` with the largest ``target_angle - predicted_angle``, largest first.

        Correct predictions come last, without a host sync; `wrong_only` removes them.
        """
        depth = (self.target_angle - self.predicted_angle).double()
        depth = depth.masked_fill(self.labels == self.predictions, -torch.inf)
        kept = depth.argsort(descending=True, stable=True)[:most]
        return Mistakes(*(each[kept] for each in self))

    def wrong_only(self) -> "Mistakes":
        """Remove correct predictions."""
        return Mistakes(*(each[self.labels != self.predictions] for each in self))

    def joined(self, others: "Mistakes") -> "Mistakes":
        """Concatenate with others."""
        return Mistakes(*(torch.cat(pair) for pair in zip(self, others, strict=True)))


def draw_mistakes(mistakes: Mistakes, class_names: list[str], *, num_wrong: int, num_images: int) -> "Figure":
    """Draw the worst mistakes with true class, predicted class and the angles to both.

    Args:
        mistakes: Mistakes to show, worst first.
        class_names: C names.
        num_wrong: Number of all mistakes.
        num_images: Number of all images.

    Returns:
        A new figure.
    """
    if not len(mistakes.labels):
        figure = new_figure(6.4, 1.6)
        figure.text(0.5, 0.5, f"No mistakes among {num_images:,} images", ha="center", va="center", fontsize=14)
        return figure
    columns = min(COLUMNS, max(4, len(mistakes.labels)))  # with fewer columns the title would not fit
    rows = math.ceil(len(mistakes.labels) / columns)
    width, height = 1.7 * columns, 2.2 * rows + 0.8
    figure = new_figure(width, height, layout=None)
    # Inches around and between the images: room for two lines above each, one below, and the title
    figure.subplots_adjust(
        left=0.1 / width, right=1 - 0.1 / width, bottom=0.3 / height, top=1 - 1.1 / height, wspace=0.13, hspace=0.5
    )
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    images = displayable(mistakes.images).permute(0, 2, 3, 1).cpu().numpy()
    for index, axes in zip(range(len(images)), grid, strict=False):
        _draw_one(axes, images[index], Mistakes(*(each[index] for each in mistakes)), class_names)
    shown = f"The worst {len(images)} of {num_wrong:,} mistakes"
    if num_wrong == len(images):
        shown = f"All {num_wrong:,} mistakes" if num_wrong > 1 else "The only mistake"
    caption = "below: angle to the center of the true class and of the predicted class"
    figure.suptitle(f"{shown} among {num_images:,} images\n{caption}", fontsize=11, y=1 - 0.1 / height, va="top")
    return figure


def _draw_one(axes: "Axes", image: np.ndarray, mistake: Mistakes, class_names: list[str]) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    true, predicted = (
        shorten(class_names[int(each)], among=class_names) for each in (mistake.labels, mistake.predictions)
    )
    is_short = len(true) + len(predicted) < 8
    title = f"is {true},{' ' if is_short else chr(10)}taken for {predicted}"
    axes.set_title(title, fontsize=9 if is_short else 7.5, parse_math=False)
    caption = f"true {mistake.target_angle:.0f}\N{DEGREE SIGN}, predicted {mistake.predicted_angle:.0f}\N{DEGREE SIGN}"
    axes.text(0.5, -0.04, caption, transform=axes.transAxes, ha="center", va="top", fontsize=8)
