"""Logged scores over the steps of a run."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from arcface_pl.figures.style import SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {"loss": "loss", "accuracy": "accuracy"}
"""Name that the keys of a panel end with, and the label of its axis."""
_WIDTH, _HEIGHT = 5.0, 4.2  # of a panel, in inches
_MARGINS = 1.0, 0.3, 0.55, 0.2  # left, right, bottom, top: "-100000" fits as a tick label


def draw_curves(rows: Iterable[Mapping[str, float]]) -> "Figure | None":
    """Draw losses and accuracies over the steps.

    Args:
        rows: What was logged, with ``step``; keys that end with ``loss`` or ``accuracy`` are drawn.

    Returns:
        A new figure with one panel each, or None if there is nothing to draw.
    """
    points: dict[str, dict[str, list[tuple[float, float]]]] = {ending: {} for ending in PANELS}
    for row in rows:
        for key, value in row.items():
            ending = next((each for each in PANELS if key.endswith(each)), None)
            if ending is not None:
                points[ending].setdefault(key, []).append((row["step"], value))
    panels = {ending: curves for ending, curves in points.items() if curves}
    if not panels:
        return None
    figure = new_figure(_WIDTH * len(panels), _HEIGHT, layout=None)  # every run waits for it
    for place, (ending, curves) in enumerate(panels.items()):
        left, right, bottom, top = _MARGINS
        width = (_WIDTH - left - right) / figure.get_figwidth()
        start = (place * _WIDTH + left) / figure.get_figwidth()
        axes = figure.add_axes((start, bottom / _HEIGHT, width, (_HEIGHT - bottom - top) / _HEIGHT))
        for number, (key, pairs) in enumerate(sorted(curves.items(), key=_place)):
            steps, values = zip(*sorted(pairs), strict=True)
            style = {**SERIES[number % len(SERIES)], "marker": "o" if len(steps) < 2 else None}
            axes.plot(steps, values, label=key, markersize=4, **style)
        axes.set(xlabel="step", ylabel=PANELS[ending])
        axes.locator_params(axis="x", integer=True)
        axes.legend(frameon=False, fontsize=9)
    return figure


def _place(curve: tuple[str, Any]) -> tuple[int, str]:
    # In the order in which a run measures them
    key = curve[0]
    splits = ("train/", "val/")
    return next((place for place, each in enumerate(splits) if key.startswith(each)), len(splits)), key
