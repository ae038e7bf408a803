"""What all figures share: colours for every eye, strokes that differ in print, labels that fit, pixels and files."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

__all__ = [
    "CLASS_COLOURS",
    "SERIES",
    "draw_share",
    "label_classes",
    "new_figure",
    "save",
    "shorten",
    "thin",
    "to_pixels",
]

# Okabe and Ito's colours, each with a stroke and a marker of its own: a grey print tells them apart as well.
SERIES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    {"color": "#CC79A7", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "D"},
    {"color": "#000000", "linestyle": ":", "marker": "x"},
    {"color": "#E69F00", "linestyle": (0, (7, 2)), "marker": "v"},
    {"color": "#56B4E9", "linestyle": (0, (1, 2)), "marker": "*"},
)
# Paul Tol's muted scheme; whoever draws classes names them as well, since beyond ten the colours begin anew.
CLASS_COLOURS = (
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#777777",
)  # fmt: skip


def new_figure(width: float, height: float) -> Figure:
    """Make a figure of its own, in inches: nothing of matplotlib's global state is touched."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_pixels(figure: Figure, dpi: int = 100) -> np.ndarray:
    """Render a figure; returns (H, W, 3) uint8."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        _quiet()
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure to a file, in a folder that need not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        _quiet()
        figure.savefig(path, dpi=dpi)


def _quiet() -> None:
    # A class name may be in any script. What the font lacks is a box in the picture, and no reason to warn.
    warnings.filterwarnings("ignore", r"Glyph .* missing from font")


def draw_share(
    axes: Axes, share: np.ndarray, edges: np.ndarray, style: dict[str, Any], label: str, hatch: str | None
) -> None:
    """Draw a histogram that another can lie over: see-through, and hatched where it is to differ in print as well."""
    colour = style["color"]
    axes.stairs(
        share, edges, fill=True, facecolor=to_rgba(colour, 0.3), edgecolor=colour, hatch=hatch, label=label, linewidth=1
    )


def shorten(name: str, length: int = 16) -> str:
    """Cut a long name in its middle: what tells names apart is at the beginning of some and at the end of others."""
    tail = length // 2
    return name if len(name) <= length else f"{name[: length - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{name[-tail:]}"


def thin(count: int, most: int) -> list[int]:
    """Return which of ``count`` things to label so that no more than ``most`` are, evenly spread."""
    return list(range(0, count, -(-count // most))) if count else []


def label_classes(axes: Axes, names: Sequence[str], *, axis: Literal["x", "y"], most: int) -> None:
    """Name the classes along an axis whose positions are 0, 1, ...; of many only some, of long names the beginning."""
    shown = thin(len(names), most)
    labels = [shorten(names[index]) for index in shown]
    if axis == "y":
        axes.set_yticks(shown, labels, parse_math=False)
    elif max(map(len, labels), default=0) > 3:
        axes.set_xticks(shown, labels, parse_math=False, rotation=45, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(shown, labels, parse_math=False)
