"""The worst mistakes of a classifier, with their images."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from rich.cells import cell_len
from torch import Tensor

from arcface_pl.figures.contact_sheet import draw_contact_sheet
from arcface_pl.figures.style import new_figure, shorten

if TYPE_CHECKING:
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
    count = len(mistakes.labels)
    true, predicted = (
        [shorten(class_names[each], among=class_names) for each in labels.tolist()]
        for labels in (mistakes.labels, mistakes.predictions)
    )
    shown = f"The worst {count} of {num_wrong:,} mistakes"
    if num_wrong == count:
        shown = f"All {num_wrong:,} mistakes" if num_wrong > 1 else "The only mistake"
    below = "below: angle to the center of the true class and of the predicted class"
    figure = draw_contact_sheet(
        mistakes.images,
        [_caption(*classes) for classes in zip(true, predicted, strict=True)],
        f"{shown} among {num_images:,} images\n{below}",
        columns=min(COLUMNS, max(4, count)),  # with fewer columns the title would not fit
    )
    for axes, *angles in zip(figure.axes, mistakes.target_angle, mistakes.predicted_angle, strict=False):
        text = "true {:.0f}\N{DEGREE SIGN}, predicted {:.0f}\N{DEGREE SIGN}".format(*angles)
        axes.text(0.5, -0.04, text, transform=axes.transAxes, ha="center", va="top", fontsize=8)
    return figure


def _caption(true: str, predicted: str) -> str:
    return f"is {true},{' ' if cell_len(true) + cell_len(predicted) < 8 else chr(10)}taken for {predicted}"
