"""All figures of one evaluation, to look at or as files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from arcface_pl.figures.angle_history import AngleHistory, draw_angle_history, draw_angles, draw_center_angles
from arcface_pl.figures.confusion import draw_confusion
from arcface_pl.figures.embeddings import draw_circle, draw_sphere
from arcface_pl.figures.mistakes import Mistakes, draw_mistakes
from arcface_pl.figures.style import save
from arcface_pl.figures.verification_curves import draw_roc, draw_scores
from arcface_pl.metrics.functional import VerificationCurve

__all__ = ["ClosedSet", "Evaluated", "draw_all", "save_all"]


MAX_CENTERS = 4096
"""Angles between all pairs of more centers than this are neither legible nor worth the memory."""


@dataclass(frozen=True)
class ClosedSet:
    """What is known of images whose classes the head was trained on.

    Attributes:
        centers: (C * sub_centers, D) class centers, a class's centers adjacent; None to leave them out.
        sub_centers: Centers for each class.
        confusion: (C, C) int64, true class by predicted class; None to leave it out.
        angles: Images by their angle to the own and to the nearest other class, (180,) int64 each; None to leave it
            out.
        mistakes: The hardest ones.
        num_wrong: Mistakes in all.
        num_images: Images in all.
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
    """What figures need to know of an evaluation; whatever is None is not drawn.

    Attributes:
        split: What was looked at, such as "test", for titles.
        class_names: Names of the classes of these images.
        embeddings: (N, D).
        labels: (N,) int64.
        curve: Verification of pairs of these images.
        closed: What there is where the head knows the classes.
        angle_history: Angles in the course of training.
    """

    split: str
    class_names: list[str]
    embeddings: Tensor
    labels: Tensor
    curve: VerificationCurve | None = None
    closed: ClosedSet | None = None
    angle_history: AngleHistory | None = None


def draw_all(evaluated: Evaluated) -> Iterator[tuple[str, Figure]]:
    """Draw every figure for which there is something to draw.

    Args:
        evaluated: What was found.

    Returns:
        Name and figure, one after the other: roc, scores, confusion, angles, mistakes, center_angles, embeddings (those
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
    """Write every figure for which there is something to draw as a PNG.

    Args:
        evaluated: What was found.
        folder: Where to; made if it is not there.

    Returns:
        The files written.
    """
    paths = []
    for name, figure in draw_all(evaluated):
        paths.append(folder / f"{name}.png")
        save(figure, paths[-1])
    return paths
