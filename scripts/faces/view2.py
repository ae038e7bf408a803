"""LFW's view 2: images of people, the folds of ``pairs.txt``, and the scores of a network on them."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from arcface_pl.data import ImageDataModule, LabelledImages
from arcface_pl.data.augment import PictureAugmentation
from arcface_pl.data.folders.pairs_file import ListedPair, read_pairs
from arcface_pl.evaluation.measure import Embedded, embed
from arcface_pl.metrics.functional import fold_accuracy, listed_pair_scores, verification_curve
from arcface_pl.preprocessing import Preprocessor, is_image, normalize_images

RATES = torch.logspace(-3, 0, 61, dtype=torch.float64)
"""False accept rates at which curves are kept."""


class Faces(NamedTuple):
    """Gray images of people.

    Attributes:
        images: (N, 1, S, S) uint8 with labels (N,) int64.
        names: Names of the people, in label order.
        numbers: Index of each image by its file's name without suffix.
    """

    images: LabelledImages
    names: list[str]
    numbers: dict[str, int]


def read_faces(root: Path, size: int) -> Faces:
    """Read a folder with one folder per person."""
    files = sorted(path for path in root.glob("*/*") if is_image(path.name))
    if not files:
        raise SystemExit(f"{root}: got no images; expected one folder per person")
    reader = Preprocessor(size, 1, (0.5,), (0.5,))
    names = sorted({path.parent.name for path in files})
    labels = {name: label for label, name in enumerate(names)}
    images = torch.stack([reader.read(path) for path in files])
    found = LabelledImages(images, torch.tensor([labels[path.parent.name] for path in files]))
    return Faces(found, names, {f"{path.parent.name}/{path.stem}": number for number, path in enumerate(files)})


class People(ImageDataModule):
    """Images of the people that a network is trained on."""

    dataset_name = "lfw"
    in_channels = 1
    statistics = (0.5,), (0.5,)

    def __init__(self, batch_size: int) -> None:
        change = PictureAugmentation(rotation=8.0, shift=2.0, zoom=0.08, flip=True, color=0.3)
        super().__init__(batch_size=batch_size, val_fraction=0.0, augmentation=change)
        self.images = LabelledImages(torch.empty(0), torch.empty(0))

    @classmethod
    def of(cls, faces: Faces, left_out: set[str], least: int, batch_size: int = 64) -> "People":
        """Take all people with at least ``least`` images, without those in ``left_out``."""
        counts = Counter(faces.images.labels.tolist())
        kept = [label for label, name in enumerate(faces.names) if counts[label] >= least and name not in left_out]
        new = torch.full((len(faces.names),), -1).scatter_(0, torch.tensor(kept), torch.arange(len(kept)))
        chosen = new[faces.images.labels] >= 0
        made = cls(batch_size)
        made.images = LabelledImages(faces.images.images[chosen], new[faces.images.labels[chosen]])
        return made

    @property
    def all_class_names(self) -> list[str]:
        """Numbers in place of the names."""
        return [str(number) for number in range(1 + int(self.images.labels.max()))]

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return self.images.images.shape[-1]

    def load_parts(self) -> Any:
        """Use all images for training."""
        return self.split(self.images, self.images.select(torch.empty(0, dtype=torch.int64)))


def folds_of(listing: Path, faces: Faces) -> list[list[ListedPair]]:
    """Return the pairs of each fold, all of whose images are there."""
    found = read_pairs(listing)
    missing = sorted({name for pair in found.pairs for name in _files(pair)} - faces.numbers.keys())
    if missing:
        raise SystemExit(f"{listing}: {len(missing):,} images are not in --images, such as {missing[0]}")
    folds: list[list[ListedPair]] = [[] for _ in range(int(found.folds.max()) + 1)]
    for pair, fold in zip(found.pairs, found.folds.tolist(), strict=True):
        folds[fold].append(pair)
    return folds


def _files(pair: ListedPair) -> list[str]:
    sides: Any = (pair.first, pair.second)
    return [f"{name}/{name}_{number:04d}" for name, number in sides]


def people_of(pairs: list[ListedPair]) -> set[str]:
    """Return the names of all people in pairs."""
    return {image[0] for pair in pairs for image in (pair.first, pair.second)}


@torch.no_grad()
def embedded(network: nn.Module, part: LabelledImages) -> Embedded:
    """Embed images, each with its mirror image, on the network's device."""
    batches = zip(part.images.split(250), part.labels.split(250), strict=True)
    inputs = ((normalize_images(images, *People.statistics), labels) for images, labels in batches)
    return embed(network, inputs, next(network.parameters()).device, flip=True)


def score(network: nn.Module, faces: Faces, pairs: list[ListedPair]) -> tuple[Tensor, Tensor]:
    """Return the cosine of each pair, (P,) float64, and whether it shows one person, (P,) bool."""
    numbers = torch.tensor([[faces.numbers[name] for name in _files(pair)] for pair in pairs])
    used, places = numbers.unique(return_inverse=True)
    scores = listed_pair_scores(*embedded(network, faces.images.select(used)), *places.unbind(1))
    return scores, torch.tensor([pair.is_genuine for pair in pairs])


def measure(network: nn.Module, faces: Faces, chooses: list[ListedPair], tests: list[ListedPair]) -> dict[str, Any]:
    """Score the pairs of the test fold, with the threshold of the other one."""
    scores, is_genuine = score(network, faces, chooses + tests)
    is_test = torch.arange(len(scores)) >= len(chooses)
    found = fold_accuracy(scores, is_genuine, is_test.long())
    curve = verification_curve(scores[is_test & is_genuine], scores[is_test & ~is_genuine])
    far, tar, _ = curve.roc()
    reached = tar[torch.searchsorted(far, RATES, right=True) - 1]
    return {
        "accuracy": float(found.accuracies[1]),
        "threshold": float(found.thresholds[1]),
        "eer": curve.equal_error_rate()[0],
        "tar": [round(each, 5) for each in reached.tolist()],
    }


def measure_choice(network: nn.Module, faces: Faces, pairs: list[ListedPair]) -> dict[str, float]:
    """Score the pairs that settings are chosen by; thresholds are those of the other half of them."""
    scores, is_genuine = score(network, faces, pairs)
    halves = fold_accuracy(scores, is_genuine, torch.arange(len(pairs)) % 2)
    eer = verification_curve(scores[is_genuine], scores[~is_genuine]).equal_error_rate()[0]
    return {"choice_eer": eer, "choice_accuracy": halves.mean}
