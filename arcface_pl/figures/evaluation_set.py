"""All figures of one evaluation, drawn or saved."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from arcface_pl.figures.angle_history import AngleHistory, draw_angle_history, draw_angles, draw_center_angles
from arcface_pl.figures.confusion import draw_confusion
from arcface_pl.figures.embeddings import draw_circle, draw_sphere
from arcface_pl.figures.mistakes import Mistakes, draw_mistakes
from arcface_pl.figures.style import save
from arcface_pl.figures.verification_curves import draw_roc, draw_scores
from arcface_pl.metrics.functional import VerificationCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_CENTERS = 20_000
"""Angles between more centers than this are not drawn."""


@dataclass(frozen=True)
class ClosedSet:
    """Results on classes that the head was trained on; whatever is None is not drawn.

    Attributes:
        centers: (C * sub_centers, D) class centers, the centers of a class adjacent.
        sub_centers: Centers per class.
        confusion: (C, C) int64, true class by predicted class, dense or sparse.
        angles: Number of images per degree of the angle to the target class and to the nearest other class, (180,)
            int64 each.
        mistakes: The worst ones.
        num_wrong: Number of all mistakes.
        num_images: Number of all images.
    """

    centers: Tensor | None
    sub_centers: int
    confusion: Tensor | None
    angles: tuple[Tensor, Tensor] | None
    mistakes: Mistakes
    num_wrong: int
    num_images: int


@dataclass(frozen=True)
class Evaluated:
    """Results of one evaluation; whatever is None is not drawn.

    Attributes:
        split: Name of the split for titles, such as "test".
        class_names: C names.
        embeddings: (N, D).
        labels: (N,) int64.
        curve: Verification of pairs of these images.
        closed: Results that need class centers.
        angle_history: Angles after each epoch of training.
    """

    split: str
    class_names: list[str]
    embeddings: Tensor
    labels: Tensor
    curve: VerificationCurve | None = None
    closed: ClosedSet | None = None
    angle_history: AngleHistory | None = None


def draw_all(evaluated: Evaluated) -> Iterator[tuple[str, "Figure"]]:
    """Draw all figures that the results allow.

    Args:
        evaluated: The results.

    Returns:
        Names and figures: roc, scores, confusion, angles, mistakes, center_angles, embeddings (those
        of two or three dimensions), angles_over_training.
    """
    names, closed = evaluated.class_names, evaluated.closed
    if evaluated.curve is not None:
        yield "roc", draw_roc({f"{evaluated.split} images": evaluated.curve})
        yield "scores", draw_scores(evaluated.curve)
    if closed is not None:
        if closed.confusion is not None:
            yield "confusion", draw_confusion(closed.confusion, names, evaluated.split)
        if closed.angles is not None:
            yield "angles", draw_angles(*closed.angles)
        totals = {"num_wrong": closed.num_wrong, "num_images": closed.num_images}
        yield "mistakes", draw_mistakes(closed.mistakes, names, **totals)
        if closed.centers is not None and len(closed.centers) <= MAX_CENTERS:
            yield "center_angles", draw_center_angles(closed.centers, names, closed.sub_centers)
    draw = {2: draw_circle, 3: draw_sphere}.get(evaluated.embeddings.shape[1])
    if draw is not None:
        centers = None if closed is None or closed.centers is None else closed.centers[:: closed.sub_centers]
        yield "embeddings", draw(evaluated.embeddings, evaluated.labels, centers, names)
    if evaluated.angle_history is not None:
        yield "angles_over_training", draw_angle_history(evaluated.angle_history)


def save_all(evaluated: Evaluated, folder: Path) -> list[Path]:
    """Save all figures that the results allow as PNG files.

    Args:
        evaluated: The results.
        folder: Destination, created if missing.

    Returns:
        The files written.
    """
    paths = []
    for name, figure in draw_all(evaluated):
        paths.append(folder / f"{name}.png")
        save(figure, paths[-1])
    return paths
