"""Digits and a star as a hand draws them: strokes of points, as shares of the paper."""

import math
from itertools import pairwise

Stroke = list[tuple[float, float]]


def arc(x: float, y: float, wide: float, high: float, start: float, end: float) -> Stroke:
    """Points of an ellipse from one angle to another, in degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * step / 14) for step in range(15)]
    return [(x + wide * math.cos(angle), y + high * math.sin(angle)) for angle in angles]


DIGITS: dict[str, list[Stroke]] = {
    "0": [arc(0.5, 0.5, 0.19, 0.3, -90, 270)],
    "1": [[(0.53, 0.17), (0.5, 0.5), (0.48, 0.84)]],
    "2": [[*arc(0.5, 0.36, 0.18, 0.18, -170, 40), (0.3, 0.8), (0.72, 0.79)]],
    "3": [[*arc(0.47, 0.34, 0.17, 0.15, -150, 80), *arc(0.47, 0.65, 0.2, 0.17, -80, 150)]],
    "4": [[(0.45, 0.2), (0.3, 0.54), (0.72, 0.54)], [(0.63, 0.3), (0.6, 0.84)]],
    "5": [[(0.38, 0.2), (0.35, 0.46), *arc(0.46, 0.62, 0.2, 0.19, -110, 140)], [(0.38, 0.2), (0.68, 0.19)]],
    "6": [[(0.58, 0.17), (0.42, 0.36), *arc(0.49, 0.65, 0.16, 0.17, 190, -170)]],
    "7": [[(0.3, 0.23), (0.7, 0.21), (0.56, 0.5), (0.46, 0.84)]],
    "8": [
        [
            *arc(0.5, 0.33, 0.14, 0.15, -60, -270),
            *arc(0.5, 0.66, 0.18, 0.18, -90, 270),
            *arc(0.5, 0.33, 0.14, 0.15, 90, -60),
        ]
    ],
    "9": [[*arc(0.49, 0.35, 0.16, 0.16, -20, -380), (0.63, 0.5), (0.58, 0.84)]],
}


def star(shift: float) -> list[Stroke]:
    """A star of five points in one stroke, moved and grown a little."""
    size = 0.36 - shift / 2
    angles = [math.radians(-90 + 144 * corner) for corner in range(6)]
    corners = [(0.5 + shift + size * math.cos(angle), 0.5 + size * math.sin(angle)) for angle in angles]
    return [[corners[0], *(point for ends in pairwise(corners) for point in line(*ends))]]


def line(start: tuple[float, float], end: tuple[float, float]) -> Stroke:
    """The points after ``start`` that a pointer passes on its way."""
    shares = [step / 8 for step in range(1, 9)]
    return [tuple(a + share * (b - a) for a, b in zip(start, end, strict=True)) for share in shares]
