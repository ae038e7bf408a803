"""Find handwriting in an image, without paper, lighting, noise and ruled lines."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from arcface_pl.preprocessing.drawing.paper import find_paper, shrink, smooth
from arcface_pl.preprocessing.drawing.rules import without_rules
from arcface_pl.preprocessing.framing import crop_ink

# Largest side, in pixels, at which an image is analyzed: enough for strokes, and fast for phone pictures.
WORKING_SIZE = 480
# Lowest contrast of ink on clean paper, on a scale of 0 to 255.
LEAST_CONTRAST = 12.0
# Lowest contrast of a pixel in a stroke, relative to the strokes' contrast.
STROKE_SHARE = 0.35
# Weight of marks that touch the image's edge: shadows, a table, the next page.
EDGE_WEIGHT = 0.05
# A mark is a sheet of paper on a table if it fills more than these fractions: of the image, of its box, and of its box
# with holes filled. An oval 0 fills 0.79 of its box that way.
SHEET_SHARE, SHEET_FILL, SHEET_BOX = 0.12, 0.55, 0.8

_EIGHT = np.ones((3, 3), bool)


class _Found(NamedTuple):
    """Candidate for ink.

    Attributes:
        contrast: (H, W), 0 for paper.
        mask: (H, W), true within strokes.
        noise: Standard deviation of the paper's contrast.
        score: Evidence for this candidate.
    """

    contrast: np.ndarray
    mask: np.ndarray
    noise: float
    score: float


def find_ink(grey: np.ndarray) -> np.ndarray | None:
    """Find a drawing or handwriting, dark on light or light on dark.

    Ink differs from the paper by more than the noise and by a fraction of the strongest strokes' contrast. Ruled lines,
    specks, and marks reaching in from the image's edge are dropped. If a sheet lies on a table, only the sheet is used.

    Args:
        grey: (H, W) float32, pixel values from 0 to 255.

    Returns:
        (h, w) float32, 1 for ink and 0 for paper, cropped to the drawing; None if there is none.
    """
    return _find(_without_specks(shrink(grey, WORKING_SIZE)), sheets=True)


def _find(grey: np.ndarray, *, sheets: bool) -> np.ndarray | None:
    paper, noise = find_paper(grey)
    # Dark ink absorbs a fraction of the light, light ink adds to it.
    gain = 255 / np.maximum(paper, 48)
    dark = _marks(np.clip((paper - grey) * gain, 0, None), noise * float(np.median(gain)))
    light = _marks(np.clip(grey - paper, 0, None), noise)
    found = [each for each in (dark, light) if each]
    if not found:
        return None
    best = max(found, key=lambda each: each.score)
    if sheets:
        inside = _inside_sheet(grey, best.mask)
        if inside is not None:
            ink = _find(inside, sheets=False)
            if ink is not None:
                return ink
    return _render(best)


def _marks(contrast: np.ndarray, noise: float) -> _Found | None:
    """Find the strokes in an image's contrast with its paper."""
    least = max(LEAST_CONTRAST, 6 * noise)
    contrast = without_rules(contrast, least / 2)
    soft = smooth(contrast)
    main = _main(soft > least, soft)
    if main is None:
        return None
    level = float(np.percentile(soft[main], 90))
    mask = _main(soft > max(least, STROKE_SHARE * level), soft)
    if mask is None:
        return None
    weight = EDGE_WEIGHT if _at_edge(mask) else 1.0
    # The third power: a few pixels of high contrast outweigh uneven paper.
    return _Found(contrast, mask, noise, weight * float((soft[mask] ** 3).sum()))


def _main(marks: np.ndarray, contrast: np.ndarray) -> np.ndarray | None:
    """Keep the mark with the most ink, and marks near it that are not specks."""
    labels, count = ndimage.label(marks, _EIGHT)
    if not count:
        return None
    weights = ndimage.sum_labels(contrast, labels, np.arange(1, count + 1))
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    at_edge = np.isin(np.arange(1, count + 1), edge)
    boxes = ndimage.find_objects(labels)
    sizes = np.array([max(part.stop - part.start for part in box) for box in boxes])
    # A mark of some pixels is dust.
    scores = np.where(at_edge, EDGE_WEIGHT, 1) * weights * (sizes >= max(marks.shape) / 80)
    main = int(scores.argmax())
    if not scores[main]:
        return None
    reach = 0.4 * sizes[main]
    near = [
        index + 1
        for index, box in enumerate(boxes)
        if index == main
        or (
            weights[index] > 0.03 * weights[main]
            and (at_edge[main] or not at_edge[index])
            and all(
                part.start - own.stop < reach and own.start - part.stop < reach
                for part, own in zip(box, boxes[main], strict=True)
            )
        )
    ]
    return np.isin(labels, near)


def _at_edge(mask: np.ndarray) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def _inside_sheet(grey: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """Return the image inside a mark that is a sheet of paper; None if it is a stroke."""
    rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
    box = mask[rows, columns]
    whole = ndimage.binary_fill_holes(box)
    if mask.mean() < SHEET_SHARE or box.mean() < SHEET_FILL or whole.mean() < SHEET_BOX or min(box.shape) < 16:
        return None
    margin = max(2, min(box.shape) // 25)
    sheet = ndimage.binary_erosion(np.pad(whole, 1), iterations=margin)[1:-1, 1:-1]
    if not sheet.any():
        return None
    inside = np.where(sheet, grey[rows, columns], np.median(grey[rows, columns][sheet]))
    return inside[margin:-margin, margin:-margin].astype(np.float32)


def _render(found: _Found) -> np.ndarray:
    contrast, mask, noise, _ = found
    reach = ndimage.binary_dilation(mask, iterations=2 + min(mask.shape) // 200)
    low = 2.5 * noise
    high = float(np.percentile(contrast[mask], 75))
    ink = np.clip((contrast - low) / max(high - low, 1), 0, 1) * reach
    return crop_ink(ink).astype(np.float32)


def _without_specks(grey: np.ndarray) -> np.ndarray:
    """Clip single pixels to the range that at least two of their neighbors have."""
    if min(grey.shape) < 64:
        return grey
    ring = _EIGHT.copy()
    ring[1, 1] = False
    low, high = (ndimage.rank_filter(grey, rank, footprint=ring) for rank in (1, -2))
    return np.clip(grey, low, high)
