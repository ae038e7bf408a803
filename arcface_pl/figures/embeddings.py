"""Two-dimensional embeddings on the circle, three-dimensional ones on the sphere, with the class centers."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from arcface_pl.figures.style import class_color, new_figure, shorten, thin
from arcface_pl.metrics.functional.cosine import unit_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NAMED = 40


def draw_circle(embeddings: Tensor, labels: Tensor, centers: Tensor | None, class_names: list[str]) -> "Figure":
    """Draw two-dimensional embeddings at their angles, and the class centers as spokes.

    Args:
        embeddings: (N, 2).
        labels: (N,) integers in [0, C).
        centers: (C, 2), or None if the classes have none.
        class_names: C names.

    Returns:
        A new figure.
    """
    figure = new_figure(5.6, 5.9)
    axes = figure.add_subplot(projection="polar")
    draw_circle_on(axes, embeddings, labels, centers, class_names)
    spokes = "; a spoke is the center of its class" if centers is not None else ""
    figure.suptitle(f"Directions of embeddings\na dot is an image{spokes}", fontsize=11)
    return figure


def draw_circle_on(axes: "Axes", embeddings: Tensor, labels: Tensor, centers: Tensor | None, names: list[str]) -> None:
    """Draw embeddings as `draw_circle` does, into polar axes."""
    angles = torch.atan2(embeddings[:, 1], embeddings[:, 0]).detach().cpu()
    # Spread over a band at random: on a line thousands of images would overlap
    radius = 1.0 + 0.25 * torch.rand(len(angles), generator=torch.Generator().manual_seed(0))
    places = _middles(embeddings, labels, len(names)) if centers is None else centers.detach().cpu()
    _draw_dots(axes, angles, radius, labels, len(angles))
    taken: list[float] = []
    for label, name in enumerate(names):
        if not places[label].any():
            continue
        place = math.atan2(places[label, 1], places[label, 0])
        if centers is not None:
            axes.plot([place, place], [0, 1], color=class_color(label), linewidth=2)
        # Names that would overlap go to a second row; a third one is not drawn
        row = sum(abs(math.remainder(place - other, 2 * math.pi)) < 0.12 for other in taken)
        taken.append(place)
        if row < 2:
            _name(axes, (place, 1.38 + 0.14 * row), name, names, ha="center", va="center")
    axes.set(ylim=(0, 1.6), xticks=[], yticks=[])
    axes.spines["polar"].set_visible(False)


def draw_sphere(embeddings: Tensor, labels: Tensor, centers: Tensor | None, class_names: list[str]) -> "Figure":
    """Draw three-dimensional embeddings on the two halves of the sphere, and the class centers as stars.

    Args:
        embeddings: (N, 3).
        labels: (N,) integers in [0, C).
        centers: (C, 3), or None if the classes have none.
        class_names: C names.

    Returns:
        A new figure.
    """
    figure = new_figure(9.6, 5.4)
    for axes, side in zip(figure.subplots(1, 2), ("front", "back"), strict=True):
        draw_sphere_on(axes, embeddings, labels, centers, class_names, is_back=side == "back")
        axes.set_xlabel(f"{side} of the sphere")
    stars = "; a star is the center of its class" if centers is not None else ""
    figure.suptitle(f"Directions of embeddings\na dot is an image{stars}", fontsize=11)
    return figure


def draw_sphere_on(
    axes: "Axes", embeddings: Tensor, labels: Tensor, centers: Tensor | None, names: list[str], *, is_back: bool
) -> None:
    """Draw one half of the sphere of `draw_sphere` into plain axes, in orthographic projection."""
    _draw_globe(axes)
    places = _middles(embeddings, labels, len(names)) if centers is None else centers
    points, stars = (_face(each, is_back) for each in (embeddings, places))
    visible = points[:, 2] >= 0
    _draw_dots(axes, points[visible, 0], points[visible, 1], labels.cpu()[visible], len(points))
    named = set(thin(len(names), MAX_NAMED))
    for label, name in enumerate(names):
        across, up, depth = stars[label].tolist()
        if depth < 0 or not stars[label].any():
            continue
        if centers is not None:
            axes.plot(across, up, marker="*", markersize=15, color=class_color(label), markeredgecolor="black")
        if label in named:
            side, shift = ("left", 0.06) if across < 0.5 else ("right", -0.06)  # toward the middle, where there is room
            _name(axes, (across + shift, up + 0.04), name, names, ha=side)
    axes.set(xlim=(-1.12, 1.12), ylim=(-1.12, 1.12), xticks=[], yticks=[], aspect="equal")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _name(axes: "Axes", place: tuple[float, float], name: str, names: list[str], **alignment: Any) -> None:
    size = 14 if len(names) <= 12 else 8
    axes.text(*place, shorten(name, 10, names), fontsize=size, fontweight="bold", parse_math=False, **alignment)


def _draw_dots(axes: "Axes", x: Tensor, y: Tensor, labels: Tensor, count: int) -> None:
    # Class by class, so that later classes cover earlier ones; `count` images in all
    order = labels.cpu().argsort(stable=True)
    colors = [class_color(label) for label in labels[order].tolist()]
    # In square points: visible if they are few, separate if they are thousands
    size = min(20.0, max(2.0, 8000 / max(count, 1)))
    axes.scatter(x[order], y[order], s=size, alpha=0.4, linewidths=0, color=colors, rasterized=True)


def _face(vectors: Tensor, is_back: bool) -> Tensor:
    # Unit vectors as seen by the viewer: across, up, toward the viewer; from behind, left and right are swapped
    unit = unit_rows(vectors.detach().cpu().double())
    return unit * torch.tensor([-1.0, 1.0, -1.0]) if is_back else unit


def _draw_globe(axes: "Axes") -> None:
    # Meridians and parallels every 30 degrees
    turn = torch.linspace(-math.pi / 2, math.pi / 2, 60)
    for degrees in range(-60, 61, 30):
        shift = math.radians(degrees)
        axes.plot(turn.cos() * math.sin(shift), turn.sin(), color="0.85", linewidth=0.7, zorder=0)
        axes.plot(turn.sin() * math.cos(shift), torch.full_like(turn, math.sin(shift)), color="0.85", linewidth=0.7,
                  zorder=0)  # fmt: skip
    around = torch.linspace(0, 2 * math.pi, 200)
    axes.plot(around.cos(), around.sin(), color="0.6", linewidth=1, zorder=0)


def _middles(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    # Label position of a class without a center: its mean direction, or zeros without an image
    unit = unit_rows(embeddings.detach().cpu().double())
    return torch.zeros(num_classes, unit.shape[1]).double().index_add_(0, labels.cpu().long(), unit)
