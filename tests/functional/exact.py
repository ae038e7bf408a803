"""The margin loss in arbitrary precision, straight from its formula: the truth that floats are held against."""

import math
from collections.abc import Callable

import mpmath as mp
import torch
from torch import Tensor

mp.mp.dps = 60
_STEP = mp.mpf(10) ** -25

Vector = list[mp.mpf]


def exact_vector(tensor: Tensor) -> Vector:
    """Take the numbers as they are: every float is exact in mpmath."""
    return [mp.mpf(value) for value in tensor.double().tolist()]


def angle(a: Vector, b: Vector) -> mp.mpf:
    length_a, length_b = (mp.sqrt(mp.fsum(value * value for value in vector)) for vector in (a, b))
    apart = mp.sqrt(mp.fsum((p / length_a - q / length_b) ** 2 for p, q in zip(a, b, strict=True)))
    together = mp.sqrt(mp.fsum((p / length_a + q / length_b) ** 2 for p, q in zip(a, b, strict=True)))
    return 2 * mp.atan2(apart, together)


def arcface(theta: mp.mpf, margin: float) -> mp.mpf:
    shifted = theta + mp.mpf(margin)
    return mp.cos(shifted) if shifted <= mp.pi else -2 - mp.cos(shifted)


def loss(x: Vector, weight: list[Vector], label: int, scale: float, psi: Callable[[mp.mpf], mp.mpf]) -> mp.mpf:
    """-log(e^(s psi) / (e^(s psi) + sum over the others of e^(s cos)))."""
    others = mp.fsum(mp.exp(scale * mp.cos(angle(x, w))) for j, w in enumerate(weight) if j != label)
    return mp.log1p(others * mp.exp(-scale * psi(angle(x, weight[label]))))


def gradients(
    x: Vector, weight: list[Vector], label: int, scale: float, psi: Callable[[mp.mpf], mp.mpf]
) -> tuple[Vector, Vector]:
    """Central differences, whose error at this step and precision is far below any float's."""

    def slope(vector: Vector, place: int) -> mp.mpf:
        kept, step = vector[place], _STEP * max(map(abs, vector))
        vector[place] = kept + step
        above = loss(x, weight, label, scale, psi)
        vector[place] = kept - step
        below = loss(x, weight, label, scale, psi)
        vector[place] = kept
        return (above - below) / (2 * step)

    of_x = [slope(x, place) for place in range(len(x))]
    return of_x, [slope(row, place) for row in weight for place in range(len(row))]


def relative_error(got: Tensor, truth: Vector) -> float:
    """Norm of the difference over norm of the truth; 0 where the truth is below 1e-30."""
    length = mp.sqrt(mp.fsum(value * value for value in truth))
    if length <= mp.mpf(10) ** -30:
        return 0.0 if bool(torch.isfinite(got).all()) else math.inf
    difference = [a - b for a, b in zip(exact_vector(got.flatten()), truth, strict=True)]
    return float(mp.sqrt(mp.fsum(value * value for value in difference)) / length)
