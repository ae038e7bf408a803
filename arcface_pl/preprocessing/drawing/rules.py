"""Remove the lines of ruled and squared paper."""

import numpy as np
from scipy import ndimage

# Steepest slope of a line, in either direction: a tilted page.
STEEPEST = 0.1
# Fraction of a line's pixels that must be marked, over its length and near each end.
COVERAGE = 0.6
ENDS = 0.5
# Contrast of ink on a line relative to the line.
STRONGER = 1.5
# Smaller images have no room for lines next to a character.
LEAST_SIDE = 64
# Width of the column strips that are analyzed together, in pixels.
STRIP = 6


def without_rules(contrast: np.ndarray, least: float) -> np.ndarray:
    """Remove straight thin lines from edge to edge, horizontal or vertical.

    Writing that crosses them is kept: it has more contrast than the line, or continues on both sides. A single line
    with nothing else is kept too: it is a 1 that fills its image.

    Args:
        contrast: (H, W) float32, 0 for paper, higher for ink.
        least: Lowest contrast of a marked pixel.

    Returns:
        (H, W) float32.
    """
    if min(contrast.shape) < LEAST_SIDE:
        return contrast
    left, total = contrast, 0
    # Perspective splits parallel lines into several slopes.
    for _ in range(3):
        across, upright = _find_lines(left, least), _find_lines(left.T, least)
        left = _without_lines(_without_lines(left, across).T, upright).T
        count = sum(ndimage.label(lines)[1] for lines in (across, upright))
        if not count:
            break
        total += count
    is_alone = total == 1 and not (left > least).any()
    return contrast if is_alone else left


def _find_lines(contrast: np.ndarray, least: float) -> np.ndarray:
    """Return the contrast of the horizontal lines, and 0 elsewhere."""
    height, width = contrast.shape
    thickest = 2 * max(3, round(0.012 * min(height, width))) + 1
    thin = contrast - ndimage.grey_opening(contrast, size=(thickest, 1))
    marks = ndimage.binary_dilation(thin > least, np.ones((3, 1), bool))
    drift, rows = _straightest(marks)
    lines = np.zeros((height, width), np.float32)
    strongest = ndimage.maximum_filter1d(contrast, 3, axis=0)
    for row in rows:
        places = row + _shift(drift, width)
        columns = np.flatnonzero((places >= 0) & (places < height))
        at = (places[columns], columns)
        lines[at] = np.median(strongest[at])
    return ndimage.grey_dilation(lines, size=(5, 1))


def _without_lines(contrast: np.ndarray, lines: np.ndarray) -> np.ndarray:
    if not lines.any():
        return contrast
    kept = np.where(contrast < STRONGER * lines, 0, contrast)
    bridged = np.minimum(ndimage.grey_closing(kept, size=(11, 1)), contrast)
    return np.where(lines > 0, np.maximum(kept, bridged), contrast).astype(np.float32)


def _shift(drift: float, count: int) -> np.ndarray:
    return np.round(drift * (np.arange(count) / (count - 1) - 0.5)).astype(int)


def _straightest(marks: np.ndarray) -> tuple[int, np.ndarray]:
    """Find the slope with the most lines marked from end to end.

    Returns:
        The slope, as the rows between the first and the last column, and the lines' rows in the middle column.
    """
    height, width = marks.shape
    steepest = round(STEEPEST * width)
    margin = steepest // 2 + 1
    # Within a strip, a line shifts by less than its thickness.
    count = width // STRIP
    strips = marks[:, : count * STRIP].reshape(height, count, STRIP).mean(axis=2, dtype=np.float32)
    # A ruled line reaches the very edge, the bar of a 7 hardly ever.
    strips[:, 0], strips[:, -1] = marks[:, 0], marks[:, -1]
    ends = (slice(0, count // 12 + 1), slice(-(count // 12 + 1), None))
    best: tuple[float, int, np.ndarray] = (0.0, 0, np.zeros(0, int))
    if not all((strips[:, end].mean(axis=1) >= ENDS / 2).any() for end in ends):
        return best[1], best[2]
    padded, inside = (np.pad(each, ((margin, margin), (0, 0))) for each in (strips, np.ones_like(strips)))
    rows = np.arange(height)[:, None] + margin
    for drift in range(-steepest, steepest + 1, 2):
        index = (rows + _shift(drift, count), np.arange(count))
        marked, valid = padded[index], inside[index]
        coverage = marked.sum(axis=1) / np.maximum(valid.sum(axis=1), count / 2)
        is_line = coverage >= COVERAGE
        for end in ends:
            # A line that leaves through the upper or lower edge has no such end.
            is_line &= marked[:, end].sum(axis=1) >= ENDS * valid[:, end].sum(axis=1)
        for last in (0, -1):
            is_line &= (marked[:, last] > 0) | (valid[:, last] == 0)
        score = float(coverage[is_line].sum())
        if score > best[0]:
            best = (score, drift, np.flatnonzero(is_line))
    return best[1], best[2]
