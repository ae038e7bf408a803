"""ROC and score histogram of a verification."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from arcface_pl.figures.style import SERIES, draw_share, new_figure
from arcface_pl.metrics.functional import VerificationCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUM_BINS = 80


def draw_roc(curves: Mapping[str, VerificationCurve]) -> "Figure":
    """Draw the ROC of one or more verifications.

    The axis of the false accept rate is logarithmic and starts at one impostor pair; markers show equal error rates.

    Args:
        curves: Up to seven curves by the name for the legend.

    Returns:
        A new figure.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = new_figure(6.4, 4.8)
    axes = figure.add_subplot()
    low = min(10.0 ** math.floor(-math.log10(curve.num_impostor)) for curve in curves.values())
    lowest = 100.0
    for (name, curve), style in zip(curves.items(), SERIES, strict=False):
        far, tar, _ = curve.roc()
        grid = torch.logspace(math.log10(low), 0, 600, dtype=torch.float64)
        reached = tar.cpu()[torch.searchsorted(far.cpu(), grid, right=True) - 1]
        lowest = min(lowest, 100 * float(reached[0]))
        rate, _ = curve.equal_error_rate()
        line = {name: style[name] for name in ("color", "linestyle")}
        axes.step(grid, 100 * reached, where="post", linewidth=1.8, **line)
        axes.plot(
            max(rate, low), 100 * (1 - rate), clip_on=False, color=style["color"], marker=style["marker"], markersize=8
        )
        label = f"{name}: equal error rate {100 * rate:.3g}%"
        axes.plot([], [], markersize=8, linewidth=1.8, label=label, **style)
    axes.set_xscale("log")
    axes.set_xlim(low, 1)
    span = max(100 - lowest, 1.0)
    axes.set_ylim(100 - 1.05 * span, 100 + 0.05 * span)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _percent(100 * value)))
    axes.xaxis.set_major_locator(LogLocator(numticks=7))  # labels of more decades would overlap
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _percent(value)))
    axes.set_title("Verification: do two images show the same class?", fontsize=12)
    axes.set_xlabel("false accept rate: accepted pairs of different classes")
    axes.set_ylabel("true accept rate: accepted pairs of the same class")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=9)
    return figure


def draw_scores(curve: VerificationCurve, title: str = "Similarity of two images") -> "Figure":
    """Draw histograms of genuine and impostor scores, and the threshold of the equal error rate.

    Args:
        curve: Pairs by cosine similarity.
        title: Title of the figure.

    Returns:
        A new figure.
    """
    from matplotlib.ticker import FuncFormatter

    figure = new_figure(6.4, 4.6)
    axes = figure.add_subplot()
    scores = curve.thresholds[1:].double().cpu()
    low, high = float(scores.min()), float(scores.max())
    if high - low < 1e-6:  # constant scores need a bin, too
        low, high = low - 0.05, high + 0.05
    edges = np.linspace(low, high, NUM_BINS + 1)
    kinds = (curve.genuine, "pairs of the same class"), (curve.impostor, "pairs of different classes")
    for series, (counts, label) in enumerate(kinds):
        weights = 100 * counts.cpu().diff().double() / int(counts[-1])
        draw_share(axes, np.histogram(scores, edges, weights=weights)[0], edges, label, series)
    rate, threshold = curve.equal_error_rate()
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1.5)
    axes.plot([], [], "k--", label=f"threshold {threshold:.3f}: {100 * rate:.3g}% of either kind are errors")
    axes.set_yscale("log")
    axes.set_ylim(top=150)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _percent(value)))
    axes.set_xlabel("cosine similarity of the two embeddings (1: same direction)")
    axes.set_ylabel("share of pairs per bar")
    if low >= -1.0 - 1e-5 and high <= 1.0 + 1e-5:
        _add_degrees(axes)
    axes.set_title(title, fontsize=12)
    figure.legend(loc="outside lower center", fontsize=9, ncols=2, frameon=False)
    return figure


def _percent(value: float) -> str:
    # Without an exponent
    return f"{value:.10f}".rstrip("0").rstrip(".") + "%"


def _add_degrees(axes: "Axes") -> None:
    low, high = axes.get_xlim()
    upper = axes.twiny()
    degrees = [
        angle
        for angle in range(0, 181, 15)
        # Near 0 and 180 degrees the cosine hardly changes, and labels would overlap
        if low <= math.cos(math.radians(angle)) <= high and (angle not in (15, 165) or high - low < 1)
    ]
    upper.set_xlim(low, high)
    upper.set_xticks([math.cos(math.radians(angle)) for angle in degrees], [str(angle) for angle in degrees])
    upper.set_xlabel("angle between the two embeddings (degrees)", fontsize=9)
    upper.tick_params(labelsize=8)
