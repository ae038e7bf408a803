"""Angles between the centers of many classes: a histogram over all pairs, and the closest pairs."""

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arcface_pl.figures.style import SERIES, draw_bars, new_figure, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_PAIRS = 20
BLOCK = 1 << 22  # cosines at once
BINS = 360  # of half a degree


def draw_closest_centers(centers: Tensor, class_names: list[str], sub_centers: int = 1) -> "Figure":
    """Draw how many pairs of classes there are at each angle, and the closest pairs by name.

    Args:
        centers: (C * sub_centers, D) the centers of a class adjacent, C >= 2.
        class_names: C names.
        sub_centers: Centers per class; the angle between two classes is that of their nearest centers.

    Returns:
        A new figure.
    """
    counts, angles, pairs = closest_pairs(centers, sub_centers)
    figure = new_figure(8.6, 7.8)
    top, bottom = figure.subplots(2, 1, height_ratios=[1, 2])
    edges = np.linspace(0, 180, BINS + 1)
    top.stairs(counts.numpy(), edges, fill=True, color=SERIES[0]["color"])
    filled = counts.nonzero().flatten() / 2
    top.set_xlim(max(0, float(filled[0]) - 3), min(180, float(filled[-1]) + 3.5))
    top.set_yscale("log")
    top.set(xlabel="angle between the centers of two classes (degrees)", ylabel="pairs of classes")
    total = len(class_names) * (len(class_names) - 1) // 2
    top.set_title(f"Angles between class centers: {len(class_names):,} classes, {total:,} pairs", fontsize=11)
    names = [" and ".join(shorten(class_names[each], among=class_names) for each in pair) for pair in pairs.tolist()]
    notes = [f"{angle:.1f}\N{DEGREE SIGN}" for angle in angles.tolist()]
    draw_bars(bottom, angles.tolist(), names, notes, room=1.15)
    bottom.set(xlabel="degrees")
    bottom.set_title(f"the {len(angles)} closest pairs", fontsize=10)
    top.spines[["top", "right"]].set_visible(False)
    return figure


def closest_pairs(centers: Tensor, sub_centers: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Compare all pairs of classes, in blocks.

    Args:
        centers: As for `draw_closest_centers`.
        sub_centers: The same.

    Returns:
        Pairs per half degree, (360,) int64; the smallest angles in degrees, (K,), ascending, and their classes, (K, 2).
    """
    unit = F.normalize(centers.detach().cpu().double(), dim=1).float().unflatten(0, (-1, sub_centers))
    count = len(unit)
    counts = torch.zeros(BINS, dtype=torch.int64)
    best, where = torch.empty(0), torch.empty(0, dtype=torch.int64)
    columns = torch.arange(count)
    for rows in columns.split(max(1, BLOCK // (count * sub_centers**2))):
        cosine = (unit[rows].flatten(0, 1) @ unit.flatten(0, 1).T).view(len(rows), sub_centers, count, sub_centers)
        upper = columns > rows[:, None]
        cosine = cosine.amax(dim=(1, 3)).clamp(-1, 1)
        degrees = torch.rad2deg(cosine[upper].acos())
        counts += torch.bincount((2 * degrees).long().clamp(0, BINS - 1), minlength=BINS)
        found = cosine.masked_fill(~upper, -2).flatten()
        values, places = found.topk(min(NUM_PAIRS, len(found)))
        best, where = torch.cat((best, values)), torch.cat((where, places + rows[0] * count))
        best, order = best.topk(min(NUM_PAIRS, len(best)))
        where = where[order]
    kept = best > -2
    return counts, torch.rad2deg(best[kept].acos()), torch.stack((where[kept] // count, where[kept] % count), 1)
