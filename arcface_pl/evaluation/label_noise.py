"""Which labels look wrong: angles of each image to the class of its label and to all others, and shared images."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from arcface_pl.heads import Head
from arcface_pl.metrics.functional import target_angles
from arcface_pl.metrics.functional.cosine import cosine_block, unit_rows
from arcface_pl.seeding import derive_seed

MOST_COMPARED = 100_000
"""Images above which only identical ones are searched for: near duplicates take a comparison of every two."""
_THUMBNAIL = 16  # pixels a side
_ROWS = 1024
_CELLS = 1 << 22  # similarities held at a time: 16 MB


class LabelAngles(NamedTuple):
    """Angles of each image to the class of its label and to the nearest other one.

    Attributes:
        target: Angle to the center of the labelled class, (N,) float64, degrees; NaN where there is none without the
            image itself.
        nearest_other: Angle to the nearest center of another class, (N,) float64, degrees.
        nearest_class: That class, (N,) int64.
        is_dominant: Whether the nearest center of the labelled class is its dominant one, (N,) bool; True with one
            center per class.
    """

    target: Tensor
    nearest_other: Tensor
    nearest_class: Tensor
    is_dominant: Tensor

    @property
    def score(self) -> Tensor:
        """``target - nearest_other``, (N,) float64, degrees: above 0, the image looks like another class."""
        return self.target - self.nearest_other

    def ranked(self) -> Tensor:
        """Return the indices of the images, (N,) int64: largest score first, those without one last."""
        return self.score.nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)

    def where(self, chosen: Tensor, other: "LabelAngles") -> "LabelAngles":
        """Take the images where ``chosen``, (N,) bool, from ``other``."""
        return LabelAngles(*(torch.where(chosen, theirs, ours) for ours, theirs in zip(self, other, strict=True)))


@torch.no_grad()
def label_angles(embeddings: Tensor, labels: Tensor, head: Head | None = None) -> LabelAngles:
    """Compute the angles of a set of images to the class of their label and to the others.

    Centers are those of the head. With sub-centers, a class is represented by its dominant one, to which most of its
    images are nearest: the others gather wrong labels (Deng et al., Sub-center ArcFace, ECCV 2020). Without a head they
    are means of the unit embeddings of each class; an image does not count for the mean of its own label.

    Args:
        embeddings: (N, D).
        labels: (N,) int64.
        head: The trained head, on the CPU, if it was trained on these classes.

    Returns:
        Angles to the class centers.

    Raises:
        ValueError: If there is only one class.

    Example:
        >>> points = torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.1, 1.0], [0.0, 1.0], [1.0, -0.1]])
        >>> found = label_angles(points, torch.tensor([0, 0, 1, 1, 1]))
        >>> found.ranked()[0], found.nearest_class[4]
        (tensor(4), tensor(0))
    """
    if head is not None:
        centers, is_dominant = _dominant_centers(embeddings, labels, head.weight.detach().float(), head.sub_centers)
        target, other, nearest = _degrees(embeddings, labels, centers)
        return LabelAngles(target, other, nearest, is_dominant)
    classes, labels, counts = labels.unique(return_inverse=True, return_counts=True)
    unit = unit_rows(embeddings.double())
    sums = unit.new_zeros(len(classes), unit.shape[1]).index_add_(0, labels, unit)
    _, other, nearest = _degrees(embeddings, labels, sums)
    rest = unit_rows(sums[labels] - unit)
    target = torch.rad2deg(2 * torch.atan2((unit - rest).norm(dim=1), (unit + rest).norm(dim=1)))
    target[counts[labels] == 1] = torch.nan
    return LabelAngles(target, other, classes[nearest], torch.ones_like(labels, dtype=torch.bool))


def _degrees(embeddings: Tensor, labels: Tensor, centers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `TargetAngles` in degrees: to the target, to the nearest other class, and that class."""
    found = target_angles(embeddings, labels, centers)
    return torch.rad2deg(found.target), torch.rad2deg(found.nearest_other), found.nearest_class


def _dominant_centers(embeddings: Tensor, labels: Tensor, centers: Tensor, sub_centers: int) -> tuple[Tensor, Tensor]:
    """Return the dominant center of each class, (C, D), and whether it is the nearest of each image's class, (N,)."""
    by_class = unit_rows(centers).unflatten(0, (-1, sub_centers))
    nearest = torch.cat(
        [
            torch.einsum("nd,nkd->nk", unit_rows(rows.float()), by_class[classes]).argmax(1)
            for rows, classes in zip(embeddings.split(_ROWS), labels.split(_ROWS), strict=True)
        ]
    )
    counts = torch.bincount(labels * sub_centers + nearest, minlength=len(centers)).unflatten(0, (-1, sub_centers))
    dominant = counts.argmax(1)
    return by_class[torch.arange(len(by_class)), dominant], nearest == dominant[labels]


def folds_of(labels: Tensor, count: int, seed: int) -> Tensor:
    """Deal the images of each class out to folds at random, as evenly as possible.

    Args:
        labels: (N,) int64.
        count: Number of folds, at least 2.
        seed: Seed of the order.

    Returns:
        The fold of each image, (N,) int64.

    Example:
        >>> sorted(folds_of(torch.tensor([0, 0, 0, 1, 1, 1]), 3, seed=0)[3:].tolist())
        [0, 1, 2]
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive_seed(seed, "folds")))
    order = order[labels[order].argsort(stable=True)]  # in a row, so that what does not divide evenly adds up
    folds = torch.empty_like(labels)
    folds[order] = torch.arange(len(labels)) % count
    return folds


class Twins(NamedTuple):
    """The image of another class that each image is most like.

    Attributes:
        image: That image, (N,) int64; -1 if none is similar enough.
        similarity: Correlation of the two, (N,) float32; 1 for identical images.
    """

    image: Tensor
    similarity: Tensor

    def pairs(self) -> list[tuple[int, int, float]]:
        """Return each pair once, the most similar first: indices of both, the smaller first, and their similarity."""
        found = {}
        for first, (second, similarity) in enumerate(zip(self.image.tolist(), self.similarity.tolist(), strict=True)):
            if second >= 0:
                found[min(first, second), max(first, second)] = similarity
        return [(*pair, found[pair]) for pair in sorted(found, key=lambda pair: (-found[pair], pair))]


def thumbnails(images: Tensor) -> Tensor:
    """Reduce images to what `find_twins` compares: 16 x 16 pixels, less their mean, to length 1.

    Args:
        images: (B, C, H, W) floating point.

    Returns:
        (B, P) float32, unit rows; a row of zeros for an image of one color.
    """
    small = F.adaptive_avg_pool2d(images.float(), min(_THUMBNAIL, *images.shape[2:])).flatten(1)
    small = small - small.mean(dim=1, keepdim=True)
    small[small.abs().amax(1) < 1e-5 * images.abs().flatten(1).amax(1).clamp_min(1)] = 0  # rounding of the mean
    return unit_rows(small)


@torch.no_grad()
def find_twins(small: Tensor, digests: Sequence[bytes], labels: Tensor, least: float) -> Twins:
    """Find images that two classes share: identical ones, and those whose thumbnails correlate.

    Args:
        small: (N, P) from `thumbnails`.
        digests: N checksums of the images.
        labels: (N,) int64.
        least: Smallest correlation, in (0, 1]; at 1, or with more than `MOST_COMPARED` images, identical images only.

    Returns:
        The most similar image of another class, per image.
    """
    index, similarity = torch.full_like(labels, -1), torch.zeros(len(labels))
    if least < 1 and len(labels) <= MOST_COMPARED:
        for chunk in torch.arange(len(labels)).split(max(32, _CELLS // len(labels))):
            cosine = cosine_block(small[chunk], small).masked_fill_(labels[chunk, None] == labels, -1)
            best, nearest = cosine.max(dim=1)
            index[chunk], similarity[chunk] = nearest.where(best >= least, -1), best.clamp(0, 1).where(best >= least, 0)
    groups = defaultdict(list)
    for place, digest in enumerate(digests):
        groups[digest].append(place)
    for places in groups.values():
        first = places[0]
        other = next((place for place in places if labels[place] != labels[first]), None)
        if other is not None:
            group = torch.tensor(places)
            index[group] = torch.where(labels[group] == labels[first], other, first)
            similarity[group] = 1.0
    return Twins(index, similarity)
