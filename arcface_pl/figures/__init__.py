"""Pure functions from tensors to matplotlib figures, which is imported when something is drawn."""

from arcface_pl.figures.angle_history import (
    AngleHistory,
    count_degrees,
    draw_angle_history,
    draw_angles,
    draw_center_angles,
)
from arcface_pl.figures.confusion import draw_confusion
from arcface_pl.figures.embeddings import draw_circle, draw_sphere
from arcface_pl.figures.evaluation_set import ClosedSet, Evaluated, draw_all, save_all
from arcface_pl.figures.images import displayable, tinted
from arcface_pl.figures.mistakes import Mistakes, draw_mistakes
from arcface_pl.figures.verification_curves import draw_roc, draw_scores

__all__ = [
    "AngleHistory",
    "ClosedSet",
    "Evaluated",
    "Mistakes",
    "count_degrees",
    "displayable",
    "draw_all",
    "draw_angle_history",
    "draw_angles",
    "draw_center_angles",
    "draw_circle",
    "draw_confusion",
    "draw_mistakes",
    "draw_roc",
    "draw_scores",
    "draw_sphere",
    "save_all",
    "tinted",
]
