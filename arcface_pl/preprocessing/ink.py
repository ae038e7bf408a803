"""Finding what is written in a picture: paper, lighting, noise and ruled lines taken away."""

import numpy as np
from scipy import ndimage

__all__ = ["find_ink"]

# A picture is looked at no finer than this: strokes stay strokes, and a telephone's picture takes no longer.
WORKING_SIZE = 640
# Contrast, on the scale from 0 to 255, below which a mark on clean paper is not taken for ink.
LEAST_CONTRAST = 12.0


def find_ink(grey: np.ndarray) -> np.ndarray | None:
    """Find what is drawn or written, dark on light or light on dark.

    The lighting is a quadratic surface fitted to the paper, what is left of it is removed by a morphological opening,
    and ink is what stands out of the noise by a share of the strongest strokes' contrast. Ruled lines, specks, and what
    reaches in from the picture's edge are left out.

    Args:
        grey: (H, W) float32, pixel values from 0 to 255.

    Returns:
        (h, w) float32, 1 for ink and 0 for paper, cut to what is drawn; None if nothing is.
    """
    grey = _shrunk(grey)
    contrast, noise = _contrast(_light_on_dark(grey))
    least = max(LEAST_CONTRAST, 6 * noise)
    marks = _without_lines(_smooth(contrast) > least)
    marks = _without_edge(marks)
    if not marks.any():
        return None
    level = float(np.percentile(contrast[marks], 90))
    mask = _main(marks & (_smooth(contrast) > max(least, 0.35 * level)), contrast)
    if not mask.any():
        return None
    reach = ndimage.binary_dilation(mask, iterations=1 + min(grey.shape) // 200) if noise > 0.5 else _around(mask)
    low = 2.5 * noise
    high = contrast[mask].max() if noise < 0.5 else np.percentile(contrast[mask], 75)
    ink = np.clip((contrast - low) / (high - low), 0, 1) * reach
    rows, columns = (np.flatnonzero((ink > (0.05 if noise else 0)).any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)


def _shrunk(grey: np.ndarray) -> np.ndarray:
    step = -(-max(grey.shape) // WORKING_SIZE)
    if step == 1:
        return grey
    height, width = (size // step * step for size in grey.shape)
    if not height or not width:
        return grey
    return grey[:height, :width].reshape(height // step, step, width // step, step).mean(axis=(1, 3))


def _smooth(values: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(values, 1.0) if min(values.shape) > 100 else values


def _surface(grey: np.ndarray) -> np.ndarray:
    """Fit a quadratic surface to the paper: iterated least squares that forgets what lies far off it."""
    rows, columns = (np.linspace(-1, 1, size, dtype=np.float32) for size in grey.shape)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)
    steps = tuple(-(-size // 64) for size in grey.shape)
    points = terms[:: steps[0], :: steps[1]].reshape(-1, 6)
    values = grey[:: steps[0], :: steps[1]].ravel()
    # The paper is what the picture's edge mostly shows.
    off = np.abs(values - np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))
    coefficients = np.zeros(6, np.float32)
    for _ in range(8):
        scale = max(2.0, 4 * float(np.median(off)))
        weight = np.where(off < scale, (1 - (off / scale) ** 2) ** 2, 0)[:, None]
        coefficients = np.linalg.lstsq(points * weight, values * weight[:, 0], rcond=1e-6)[0]
        off = np.abs(values - points @ coefficients)
    return terms @ coefficients


def _light_on_dark(grey: np.ndarray) -> np.ndarray:
    """Take the paper's lighting away, and turn what stands out of it to positive values."""
    residual = grey - _surface(grey)
    # The third power: few pixels far off the paper count for more than all its unevenness.
    return residual if (residual**3).sum() > 0 else -residual


def _contrast(flat: np.ndarray) -> tuple[np.ndarray, float]:
    window = max(3, min(flat.shape) // 2)
    paper = ndimage.grey_opening(_smooth(flat), size=(window, window), mode="nearest")
    if window > 20:
        paper = ndimage.gaussian_filter(paper, window / 8)
    contrast = flat - paper
    noise = 1.4826 * float(np.median(np.abs(contrast - np.median(contrast))))
    return np.clip(contrast - np.median(contrast), 0, None), noise


def _without_lines(marks: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        kept = _without_rows(marks if axis == 0 else marks.T)
        kept = kept if axis == 0 else kept.T
        # What is nothing but a line is a stroke.
        marks = kept if kept.any() else marks
    return marks


def _without_rows(marks: np.ndarray) -> np.ndarray:
    height, width = marks.shape
    runs = ndimage.binary_opening(marks, np.ones((1, max(3, width // 7)), bool))
    labels, _ = ndimage.label(runs, np.ones((3, 3)))
    lines = np.zeros_like(marks)
    thickness = 0.0
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        line = labels[box] == index
        thick = line.sum() / line.shape[1]
        if line.shape[1] > 0.85 * width and thick <= max(2.0, 0.02 * height):
            lines[box] |= line
            thickness = max(thickness, thick)
    if not lines.any():
        return marks
    kept = marks & ~ndimage.binary_dilation(lines, np.ones((3, 1)))
    # Where a stroke crosses a line, ink lies on both sides of it.
    return kept | (ndimage.binary_closing(kept, np.ones((2 * round(thickness) + 5, 1))) & marks)


def _without_edge(marks: np.ndarray) -> np.ndarray:
    """Leave out what reaches in from the picture's edge, where something of a character's size does not."""
    labels, _ = ndimage.label(marks, np.ones((3, 3)))
    height, width = marks.shape
    at_edge = set(np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))) - {0}
    least = max(4, 0.05 * min(height, width))
    inner = [
        index
        for index, (rows, _) in enumerate(ndimage.find_objects(labels), start=1)
        if index not in at_edge and rows.stop - rows.start >= least
    ]
    return marks & ~np.isin(labels, list(at_edge)) if inner and at_edge else marks


def _main(mask: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """Keep the mark with the most ink, and those near it that are no specks beside it."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return mask
    weights = ndimage.sum_labels(contrast, labels, np.arange(1, count + 1))
    boxes = ndimage.find_objects(labels)
    main = int(weights.argmax())
    reach = 0.4 * max(part.stop - part.start for part in boxes[main])
    near = [
        index + 1
        for index, box in enumerate(boxes)
        if weights[index] > 0.03 * weights[main]
        and all(
            part.start - own.stop < reach and own.start - part.stop < reach
            for part, own in zip(box, boxes[main], strict=True)
        )
    ]
    return np.isin(labels, near)


def _around(mask: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(mask, iterations=2)
