"""Shared parts of all figures: colors, line styles, class labels, rendering and saving."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from rich.cells import cell_len

from arcface_pl.checkpoints.atomic import replacing
from arcface_pl.errors import printable
from arcface_pl.figures.fonts import fit_font, fit_fonts, is_drawable

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLASSES = 50
"""Of more classes a figure shows totals, since neither cells nor names of each can be read."""
SOFTWARE = b"Software\0arcface_pl"
"""In every PNG that `save` wrote."""
# Okabe and Ito's colors, each with its line style and marker, so that they differ in gray print too
SERIES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    {"color": "#CC79A7", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "D"},
    {"color": "#000000", "linestyle": ":", "marker": "x"},
    {"color": "#E69F00", "linestyle": (0, (7, 2)), "marker": "v"},
    {"color": "#56B4E9", "linestyle": (0, (1, 2)), "marker": "*"},
)
# Paul Tol's muted scheme; classes are labeled as well, since colors repeat after ten
CLASS_COLORS = (
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#777777",
)  # fmt: skip


def class_color(label: int) -> str:
    """Return the color of a class; colors repeat after ten."""
    return CLASS_COLORS[label % len(CLASS_COLORS)]


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> "Figure":
    """Make a figure, sized in inches, without touching matplotlib's global state.

    The constrained layout fits everything that is drawn, at twice the time of drawing: with dozens of axes, place them
    yourself.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def to_pixels(figure: "Figure", dpi: int = 100) -> np.ndarray:
    """Render a figure, (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    fit_fonts(figure)
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    with _quiet():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def save(figure: "Figure", path: Path, dpi: int = 150) -> None:
    """Write a figure to a file, creating its folder; a file that was there is kept until the new one is complete."""
    content = io.BytesIO()
    fit_fonts(figure)
    with _quiet():
        figure.savefig(content, dpi=dpi, format=path.suffix[1:] or "png", metadata={"Software": "arcface_pl"})
    made = [each for each in path.parents if not each.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as file:
            file.write(content.getvalue())
    except OSError:
        with contextlib.suppress(OSError):
            for each in made:
                each.rmdir()
        raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what matplotlib says of fonts without bold letters, and of glyphs of texts that name no class."""
    log = logging.getLogger("matplotlib.font_manager")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph .* missing from font")
            yield
    finally:
        log.setLevel(before)


def draw_share(axes: "Axes", share: np.ndarray, edges: np.ndarray, label: str, series: int) -> None:
    """Draw a translucent histogram in the color of a series; those after the first are hatched, for gray print."""
    from matplotlib.colors import to_rgba

    color = SERIES[series]["color"]
    colors = {"facecolor": to_rgba(color, 0.3), "edgecolor": color, "hatch": "////" if series else None}
    axes.stairs(share, edges, fill=True, label=label, linewidth=1, **colors)


def draw_bars(
    axes: "Axes", values: Sequence[float], names: Sequence[str], notes: Sequence[str], *, room: float
) -> None:
    """Draw named horizontal bars, the first at the top, with a note at the end of each.

    Args:
        axes: Where to.
        values: Lengths, at least one.
        names: Names at the left.
        notes: Texts at the right ends.
        room: Length of the axis relative to the longest bar.
    """
    places = range(len(values))
    axes.barh(places, values, color=SERIES[0]["color"])
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    for place, value, note in zip(places, values, notes, strict=True):
        axes.text(value, place, f" {note}", va="center", fontsize=8)
    axes.set_xlim(0, room * max(*values, 1))
    axes.spines[["top", "right"]].set_visible(False)


def shorten(name: str, length: int = 16, among: Sequence[str] = ()) -> str:
    """Escape control characters, and cut a long name, of which a wide character takes two places.

    First what all names of ``among`` begin or end with, up to a word's end, then the middle, since names may differ at
    either end. A name with characters that no font has is its number among ``among``, or escaped.
    """
    if not is_drawable(name):
        name = f"#{among.index(name)}" if name in among else name.encode("ascii", "backslashreplace").decode()
    elif cell_len(name) > length:
        start, end = _shared(among)
        if core := name[start : len(name) - end]:
            name = "\N{HORIZONTAL ELLIPSIS}" * (start > 0) + core + "\N{HORIZONTAL ELLIPSIS}" * (end > 0)
    name = printable(name)
    if cell_len(name) <= length:
        return name
    tail = length // 2
    return f"{_fitting(name, length - 1 - tail)}\N{HORIZONTAL ELLIPSIS}{_fitting(name[::-1], tail)[::-1]}"


def _fitting(name: str, cells: int) -> str:
    """Return as much of a name's start as takes up to ``cells`` places."""
    return name[: sum(total <= cells for total in accumulate(map(cell_len, name)))]


def _shared(names: Sequence[str]) -> tuple[int, int]:
    """Return how many characters all of several names have in common at their start and end, as whole words."""
    if len(names) < 2:
        return 0, 0
    lengths = []
    for step in (1, -1):
        turned = [name[::step] for name in names]
        low, high = min(turned), max(turned)
        same = next((place for place, pair in enumerate(zip(low, high, strict=False)) if len({*pair}) > 1), len(low))
        words = re.match(r"(?s:.*[\W_])|", low[:same])
        lengths.append(words.end() if words else 0)
    return (lengths[0], lengths[1]) if sum(lengths) < min(map(len, names)) else (0, 0)


def thin(count: int, most: int) -> list[int]:
    """Return at most ``most`` of ``count`` indices, evenly spread."""
    return list(range(0, count, -(-count // most))) if count else []


def label_classes(axes: "Axes", names: Sequence[str], most: int) -> None:
    """Label the classes along both axes at positions 0, 1, ...; at most ``most`` of them, long names shortened."""
    shown = thin(len(names), most)
    labels = [shorten(names[index], among=names) for index in shown]
    is_long = max(map(cell_len, labels), default=0) > 3
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    axes.set_xticks(shown, labels, parse_math=False, **slanted)
    axes.set_yticks(shown, labels, parse_math=False)


def write_apart(axes: "Axes", wanted: Iterable[tuple[str, Sequence[tuple[float, float, str]]]], **style: Any) -> None:
    """Write names that do not overlap, those first that come first; one for which there is no room is left out.

    Args:
        axes: Where to write, with its limits set.
        wanted: A name and the places it may take, best first: x, y and the horizontal alignment.
        style: Further properties of the texts.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    figure: Any = axes.get_figure(root=True)
    with _quiet():
        if layout := figure.get_layout_engine():
            layout.execute(figure)  # else the axes would move after names were compared
        renderer = cast(FigureCanvasAgg, figure.canvas).get_renderer()
        taken: list[Bbox] = []
        for name, places in wanted:
            text = axes.text(0, 0, name, va="center", parse_math=False, **style)
            text.set_in_layout(False)
            fit_font(text)
            for x, y, alignment in places:
                text.set(position=(x, y), ha=alignment)
                box = text.get_window_extent(renderer).padded(2)
                if not any(box.overlaps(other) for other in taken):
                    taken.append(box)
                    break
            else:
                text.remove()
