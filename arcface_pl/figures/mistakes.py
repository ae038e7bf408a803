"""The mistakes that a network was surest of, with their images."""

import math
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from arcface_pl.figures.images import displayable
from arcface_pl.figures.style import new_figure, shorten

__all__ = ["Mistakes", "draw_mistakes"]

COLUMNS = 6


class Mistakes(NamedTuple):
    """Images that were taken for another class than their own, the hardest first.

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

    @classmethod
    def hardest(
        cls, images: Tensor, labels: Tensor, predictions: Tensor, angles: Tensor, *, most: int = 24
    ) -> "Mistakes":
        """Choose the mistakes that lie deepest in the wrong class: own angle minus the wrong one's, largest first.

        Args:
            images: (N, C, H, W), right ones among them too.
            labels: (N,) int64.
            predictions: (N,) int64.
            angles: (N, C) angle to each class, degrees.
            most: How many to keep.
        """
        target, predicted = (angles.gather(1, each[:, None]).squeeze(1) for each in (labels, predictions))
        return cls(images, labels, predictions, target, predicted).sorted(most)

    def sorted(self, most: int) -> "Mistakes":
        """Leave out what is right, and what is beyond the ``most`` hardest."""
        wrong = (self.labels != self.predictions).nonzero().squeeze(1)
        depth = (self.target_angle - self.predicted_angle)[wrong]
        kept = wrong[depth.argsort(descending=True, stable=True)[:most]]
        return Mistakes(*(each[kept] for each in self))


def draw_mistakes(mistakes: Mistakes, class_names: list[str], *, num_wrong: int, num_images: int) -> Figure:
    """Draw the hardest mistakes, each with what it is, what it was taken for, and the angle to either.

    Args:
        mistakes: Those to show, the hardest first.
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
    rows = math.ceil(len(mistakes.labels) / COLUMNS)
    figure = new_figure(1.55 * COLUMNS, 2.15 * rows + 0.9)
    grid = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for axes in grid:
        axes.set_axis_off()
    images = displayable(mistakes.images).permute(0, 2, 3, 1).cpu()
    for index, axes in zip(range(len(images)), grid, strict=False):
        _draw_one(axes, images[index], Mistakes(*(each[index] for each in mistakes)), class_names)
    shown = f"The {len(images)} hardest of {num_wrong:,}" if num_wrong > len(images) else f"All {num_wrong:,}"
    noun = "mistake" if num_wrong == 1 else "mistakes"
    figure.suptitle(
        f"{shown} {noun} among {num_images:,} images\n"
        "below each: angle to the center of its own class, and to that of the class it was taken for",
        fontsize=11,
    )
    return figure


def _draw_one(axes: Axes, image: Tensor, mistake: Mistakes, class_names: list[str]) -> None:
    axes.imshow(image.expand(-1, -1, 3) if image.shape[-1] == 1 else image, interpolation="nearest")
    own, taken = (shorten(class_names[int(each)], 15) for each in (mistake.labels, mistake.predictions))
    separator = " " if len(own) + len(taken) < 8 else "\n"
    axes.set_title(f"is {own},{separator}taken for {taken}", fontsize=8.5, parse_math=False)
    caption = f"own {mistake.target_angle:.0f}\N{DEGREE SIGN}, taken {mistake.predicted_angle:.0f}\N{DEGREE SIGN}"
    axes.text(0.5, -0.04, caption, transform=axes.transAxes, ha="center", va="top", fontsize=8.5)
