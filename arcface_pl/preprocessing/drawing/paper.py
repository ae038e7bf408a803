"""Estimate the blank paper or board behind a drawing, with its lighting."""

import numpy as np
from scipy import ndimage

# Deviation of the image's edge from a smooth surface, in grey levels, up to which it is paper, and how much must be.
EDGE_TOLERANCE = 8.0
EDGE_SHARE = 0.75
# Number of pixels that a surface is fitted to, and the deviation in grey levels beyond which a pixel is not paper.
SAMPLES = 2000
FARTHEST = 40.0
# Longest side, in pixels, at which the local median is computed, and its window relative to the shorter side.
COARSE_SIZE = 160
WINDOW_SHARE = 0.4


def find_paper(grey: np.ndarray) -> tuple[np.ndarray, float]:
    """Estimate the grey value of the paper behind everything, and the noise about it.

    If the image's edge is plain paper, a quadratic surface fitted to it is the paper everywhere, however much of the
    middle is ink. Otherwise (shadows, a table) the local median is used, which keeps a shadow's edge sharp.

    Args:
        grey: (H, W) float32, pixel values from 0 to 255.

    Returns:
        (H, W) float32, and the noise's standard deviation in grey levels.
    """
    soft = smooth(grey)
    surface, edge_share, spread = _surface(soft)
    if edge_share >= EDGE_SHARE:
        return surface, max(spread, _grain(soft))
    paper = _local_median(soft)
    return paper, 1.4826 * float(np.median(np.abs(soft - paper)))


def smooth(values: np.ndarray) -> np.ndarray:
    """Remove fine noise if the image is large enough for strokes to survive."""
    return ndimage.gaussian_filter(values, 1.0) if min(values.shape) > 100 else values


def shrink(grey: np.ndarray, size: int) -> np.ndarray:
    """Average blocks of pixels, so that the longer side is at most ``size``."""
    steps = [min(-(-max(grey.shape) // size), side) for side in grey.shape]
    if max(steps) <= 1:
        return grey
    height, width = (side // step for side, step in zip(grey.shape, steps, strict=True))
    blocks = grey[: height * steps[0], : width * steps[1]].reshape(height, steps[0], width, steps[1])
    return blocks.mean(axis=(1, 3))


def _grain(grey: np.ndarray) -> float:
    """Estimate the noise from differences of neighbors, which light and strokes hardly change."""
    if grey.shape[1] < 2:
        return 0.0
    return 1.4826 * float(np.median(np.abs(np.diff(grey, axis=1)))) / 2**0.5


def _surface(grey: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Fit a quadratic surface to the image's edge.

    Returns:
        The surface, the fraction of the edge that lies on the first fit, and the spread around it.
    """
    rows, columns = (np.linspace(-1, 1, side, dtype=np.float32) for side in grey.shape)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y, x**4, y**4, (x * y) ** 2], axis=-1)
    depth = max(1, min(grey.shape) // 50)
    edge = np.ones(grey.shape, bool)
    edge[depth:-depth, depth:-depth] = False
    every = 1 + int(edge.sum()) // SAMPLES
    points, values = terms[edge][::every, :6], grey[edge][::every]
    coefficients = _fit(points, values - np.median(values))
    surface = terms[..., :6] @ coefficients + np.median(values)
    off = np.abs(grey - surface)[edge]
    tolerance = max(EDGE_TOLERANCE, 4 * _grain(grey))
    # Lenses and lamps make the center lighter than a quadratic surface.
    every = 1 + grey.size // SAMPLES
    surface = surface + terms @ _fit(terms.reshape(-1, 9)[::every], (grey - surface).ravel()[::every])
    return surface.astype(np.float32), float((off < tolerance).mean()), 1.4826 * float(np.median(off))


def _fit(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Fit coefficients by iteratively reweighted least squares that ignores outliers: ink."""
    off = np.abs(values)
    coefficients = np.zeros(points.shape[1], np.float32)
    for _ in range(8):
        near = off < FARTHEST
        scale = 4 * float(np.median(off[near])) if near.any() else 0.0
        scale = min(max(scale, 2.0), FARTHEST)
        weight = np.where(off < scale, (1 - (off / scale) ** 2) ** 2, 0)[:, None]
        coefficients = np.linalg.lstsq(points * weight, values * weight[:, 0], rcond=1e-6)[0]
        off = np.abs(values - points @ coefficients)
    return coefficients


def _local_median(grey: np.ndarray) -> np.ndarray:
    """Compute the local median, from box averages of how many pixels lie below each of some grey levels."""
    coarse = shrink(grey, COARSE_SIZE)
    window = max(3, round(WINDOW_SHARE * min(coarse.shape)))
    levels = np.unique(np.quantile(coarse, np.linspace(0, 1, 33)).astype(np.float32))
    if len(levels) < 2:
        return np.full_like(grey, levels[0])
    below = np.stack(
        [ndimage.uniform_filter((coarse <= level).astype(np.float32), window, mode="nearest") for level in levels]
    )
    upper = np.maximum((below >= 0.5 - 1e-6).argmax(axis=0), 1)
    high, low = (np.take_along_axis(below, index[None], axis=0)[0] for index in (upper, upper - 1))
    part, step = np.clip((0.5 - low) / np.maximum(high - low, 1e-6), 0, 1), levels[upper] - levels[upper - 1]
    # Do not interpolate between levels that are far apart.
    paper = levels[upper] - np.where(step > EDGE_TOLERANCE, 0, (1 - part) * step)
    zoom = [side / small for side, small in zip(grey.shape, paper.shape, strict=True)]
    return ndimage.zoom(paper, zoom, order=1, mode="nearest", grid_mode=True).astype(np.float32)
