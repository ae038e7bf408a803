"""Two-dimensional embeddings on the circle, three-dimensional ones on the sphere, with the class centers."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from arcface_pl.figures.style import MAX_CLASSES, class_color, draw_share, new_figure, shorten, write_apart
from arcface_pl.metrics.functional.cosine import unit_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_circle(embeddings: Tensor, labels: Tensor, centers: Tensor | None, class_names: list[str]) -> "Figure":
    """Draw two-dimensional embeddings at their angles, and the class centers as spokes.

    Beyond 50 classes histograms of the directions are drawn instead.

    Args:
        embeddings: (N, 2).
        labels: (N,) integers in [0, C).
        centers: (C, 2), or None if the classes have none.
        class_names: C names.

    Returns:
        A new figure.
    """
    if len(class_names) > MAX_CLASSES:
        return _draw_directions(embeddings, centers, len(class_names))
    figure = new_figure(5.6, 5.9)
    spokes = "; a spoke is the center of its class" if centers is not None else ""
    figure.suptitle(f"Directions of embeddings\na dot is an image{spokes}", fontsize=11)
    draw_circle_on(figure.add_subplot(projection="polar"), embeddings, labels, centers, class_names)
    return figure


def draw_circle_on(axes: "Axes", embeddings: Tensor, labels: Tensor, centers: Tensor | None, names: list[str]) -> None:
    """Draw embeddings as `draw_circle` does, into polar axes."""
    angles = torch.atan2(embeddings[:, 1], embeddings[:, 0]).detach().cpu()
    # Spread over a band at random: on a line thousands of images would overlap
    radius = 1.0 + 0.25 * torch.rand(len(angles), generator=torch.Generator().manual_seed(0))
    places = _middles(embeddings, labels, len(names)) if centers is None else centers.detach().cpu()
    _draw_dots(axes, angles, radius, labels, len(angles))
    axes.set(ylim=(0, 1.6), xticks=[], yticks=[])
    axes.spines["polar"].set_visible(False)
    wanted = []
    for label, name in enumerate(names):
        if not places[label].any():
            continue
        place = math.atan2(places[label, 1], places[label, 0])
        if centers is not None:
            axes.plot([place, place], [0, 1], color=class_color(label), linewidth=2)
        wanted.append((name, [(place, radius, "center") for radius in (1.38, 1.52)]))
    _name(axes, wanted, names)


def draw_sphere(embeddings: Tensor, labels: Tensor, centers: Tensor | None, class_names: list[str]) -> "Figure":
    """Draw three-dimensional embeddings on the two halves of the sphere, and the class centers as stars.

    Beyond 50 classes the halves show how many images point where, in an equal-area projection.

    Args:
        embeddings: (N, 3).
        labels: (N,) integers in [0, C).
        centers: (C, 3), or None if the classes have none.
        class_names: C names.

    Returns:
        A new figure.
    """
    if len(class_names) > MAX_CLASSES:
        return _draw_density(embeddings, len(class_names))
    figure = new_figure(9.6, 5.4)
    stars = "; a star is the center of its class" if centers is not None else ""
    figure.suptitle(f"Directions of embeddings\na dot is an image{stars}", fontsize=11)
    halves = figure.subplots(1, 2)
    for axes, side in zip(halves, ("front", "back"), strict=True):
        axes.set_xlabel(f"{side} of the sphere")
    for axes, is_back in zip(halves, (False, True), strict=True):
        draw_sphere_on(axes, embeddings, labels, centers, class_names, is_back=is_back)
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
    _frame(axes)
    wanted = []
    for label, name in enumerate(names):
        across, up, depth = stars[label].tolist()
        if depth < 0 or not stars[label].any():
            continue
        if centers is not None:
            axes.plot(across, up, marker="*", markersize=15, color=class_color(label), markeredgecolor="black")
        sides = [("left", 0.06), ("right", -0.06)]
        # Toward the middle first, where there is room
        ordered = sides if across < 0.5 else sides[::-1]
        wanted.append((name, [(across + x, up + y, side) for y in (0.04, -0.06) for side, x in ordered]))
    _name(axes, wanted, names)


def _draw_directions(embeddings: Tensor, centers: Tensor | None, num_classes: int) -> "Figure":
    """Draw histograms of the directions of two-dimensional embeddings and class centers."""
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    edges = np.arange(-180, 181, 10)
    series = [(embeddings, f"{len(embeddings):,} images")]
    if centers is not None:
        series.append((centers, f"{num_classes:,} class centers"))
    for number, (vectors, label) in enumerate(series):
        angles = torch.rad2deg(torch.atan2(vectors[:, 1], vectors[:, 0])).detach().cpu().numpy()
        counts = np.histogram(angles, edges)[0]
        draw_share(axes, 100 * counts / max(counts.sum(), 1), edges, label, number)
    axes.set(xlabel="direction (degrees)", ylabel="share per 10 degrees (%)", xlim=(-180, 180))
    axes.set_xticks(range(-180, 181, 45))
    axes.set_title(f"Directions of embeddings of {num_classes:,} classes", fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _draw_density(embeddings: Tensor, num_classes: int) -> "Figure":
    """Draw how many three-dimensional embeddings point where, in cells of equal area."""
    from matplotlib.patches import Circle

    figure = new_figure(9.6, 5.2)
    faces = [_face(embeddings, is_back) for is_back in (False, True)]
    faces = [face[face[:, 2] >= 0] for face in faces]
    bins = np.linspace(-1, 1, 1 + int(np.clip((len(embeddings) / 12) ** 0.5, 6, 32)))  # about eight images per cell
    # Lambert's azimuthal projection of a half to the unit disk
    flat = [(face[:, :2] / (1 + face[:, 2:]).sqrt()).numpy() for face in faces]
    counts = [np.histogram2d(each[:, 1], each[:, 0], bins)[0] for each in flat]
    halves = figure.subplots(1, 2)
    for axes, count, side in zip(halves, counts, ("front", "back"), strict=True):
        picture = axes.imshow(count, cmap="cividis", vmin=0, vmax=max(1, *(each.max() for each in counts)),
                              extent=(-1, 1, -1, 1), origin="lower")  # fmt: skip
        picture.set_clip_path(Circle((0, 0), 1, transform=axes.transData))
        _draw_rim(axes)
        axes.set_xlabel(f"{side} of the sphere")
        _frame(axes)
    figure.colorbar(picture, ax=halves, label="images per cell", shrink=0.8)
    figure.suptitle(
        f"Directions of embeddings: {len(embeddings):,} images of {num_classes:,} classes\n"
        "cells of equal area, cut at the rim",
        fontsize=11,
    )
    return figure


def _frame(axes: "Axes") -> None:
    axes.set(xlim=(-1.12, 1.12), ylim=(-1.12, 1.12), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(False)


def _name(axes: "Axes", wanted: list[tuple[str, list[tuple[float, float, str]]]], names: list[str]) -> None:
    size = 14 if len(names) <= 12 else 8
    shown = [(shorten(name, 10, names), places) for name, places in wanted]
    write_apart(axes, shown, fontsize=size, fontweight="bold")


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
    _draw_rim(axes)


def _draw_rim(axes: "Axes") -> None:
    around = torch.linspace(0, 2 * math.pi, 200)
    axes.plot(around.cos(), around.sin(), color="0.6", linewidth=1, zorder=0)


def _middles(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    # Label position of a class without a center: its mean direction, or zeros without an image
    unit = unit_rows(embeddings.detach().cpu().double())
    return torch.zeros(num_classes, unit.shape[1]).double().index_add_(0, labels.cpu().long(), unit)
