"""Sheets of images with a caption each."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from torch import Tensor

from arcface_pl.figures.images import displayable
from arcface_pl.figures.style import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 8


def draw_contact_sheet(images: Tensor, captions: Sequence[str], title: str, *, columns: int = COLUMNS) -> "Figure":
    """Draw images in rows, each under its caption.

    Args:
        images: (N, C, H, W), C 1 or 3, N >= 1.
        captions: N texts of at most three lines; those of a few words are larger.
        title: Text above all.
        columns: Images per row.

    Returns:
        A new figure.
    """
    rows = math.ceil(len(captions) / columns)
    width, height = 1.6 * columns, 2.15 * rows + 0.9
    figure = new_figure(width, height, layout=None)
    # Inches: the title above, three lines above each image, and one below
    figure.subplots_adjust(
        left=0.1 / width, right=1 - 0.1 / width, bottom=0.3 / height, top=1 - 1.1 / height, wspace=0.1, hspace=0.45
    )
    pixels = displayable(images).permute(0, 2, 3, 1).cpu().numpy()
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, image, caption in zip(grid, pixels, captions, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(caption, fontsize=9 if cell_len(caption) < 23 else 7.5, pad=3, parse_math=False)
    figure.suptitle(title, fontsize=11, y=1 - 0.1 / height, va="top", parse_math=False)
    return figure
