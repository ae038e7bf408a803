"""`PairsDataModule`: verification pairs from a list in a file, for evaluation."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import LightningDataModule
from torch import Tensor

from arcface_pl.data.bounds import check_bounds
from arcface_pl.data.folders.image_files import FileLoader, ImageFiles
from arcface_pl.data.folders.pairs_file import dealt_folds, read_pairs
from arcface_pl.data.folders.verification_set import read_verification_set
from arcface_pl.data.labelled import list_files
from arcface_pl.errors import DataError, expected, listed
from arcface_pl.preprocessing import IMAGE_SUFFIXES, Preprocessor

UNKNOWN = -1
"""Label of an image whose class is not known."""


class Pairs(NamedTuple):
    """Pairs of test images, as indices.

    Attributes:
        first: Index of the first image of each pair, (P,) int64.
        second: Index of the second image, (P,) int64.
        is_genuine: Whether both images are of the same class, (P,) bool.
        folds: Fold of each pair in cross-validation, (P,) int64.
    """

    first: Tensor
    second: Tensor
    is_genuine: Tensor
    folds: Tensor


class PairsDataModule(LightningDataModule):
    """Verification pairs listed in the format of Labeled Faces in the Wild, or as two paths and 1 or 0 per line.

    insightface's ``.bin`` files (``lfw.bin``) hold the images themselves, without their classes.

    For evaluation only. The test images are the listed ones, each once; :attr:`pairs` has the pairs. Classes are the
    folders of the images, and need not be those of training. Images are preprocessed as the evaluated model requires,
    which the evaluation passes to :meth:`use_preprocessing`.

    An image given by a person and a number is ``root/name/name_0001.jpg`` or ``root/name_0001.jpg``, with any image
    suffix. Paths are relative to ``root``.

    Args:
        root: Folder of the images. null for that of the list; unused for a ``.bin`` file.
        pairs_file: The list; see `arcface_pl.data.folders.pairs_file.read_pairs` for its formats; or a ``.bin`` file.
        eval_batch_size: Images per step; affects speed and memory only.
        num_workers: Number of processes that read images.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(
        self, root: str | None = None, pairs_file: str = "", eval_batch_size: int = 250, num_workers: int = 0
    ) -> None:
        super().__init__()
        check_bounds(eval_batch_size=eval_batch_size, num_workers=num_workers)
        if not str(pairs_file):
            raise ValueError(expected("pairs_file", "", "a list of pairs, such as pairs.txt or lfw.bin"))
        root, pairs_file = None if root is None else str(root), str(pairs_file)
        self.save_hyperparameters(frame=inspect.currentframe(), logger=False)  # see ImageDataModule
        self.pairs_file = Path(pairs_file).expanduser()
        self.holds_images = self.pairs_file.suffix.lower() == ".bin"
        folder = self.pairs_file.parent if root is None else Path(root).expanduser()
        self.root = self.pairs_file if self.holds_images else folder
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self._preprocessor: Preprocessor | None = None
        self._found: _Found | None = None

    @property
    def dataset_name(self) -> str:
        """Name of the list."""
        return self.pairs_file.stem

    @property
    def class_names(self) -> list[str]:
        """Names of the folders of the images, in label order; known after :meth:`setup`. Empty for a ``.bin`` file."""
        return self._ready.class_names

    @property
    def num_test(self) -> int:
        """Number of listed images; known after :meth:`setup`."""
        return len(self._ready.labels)

    @property
    def pairs(self) -> Pairs:
        """The pairs, as indices into the test images; known after :meth:`setup`."""
        return self._ready.pairs

    def use_preprocessing(self, preprocessor: Preprocessor) -> None:
        """Set the preprocessing of the images."""
        self._preprocessor = preprocessor

    def setup(self, stage: str | None = None) -> None:
        """Read the list and find its images.

        Raises:
            DataError: If the list cannot be read, or an image is missing.
        """
        if stage == "fit":
            remedy = "A list of pairs is for arcface-pl evaluate"
            raise DataError(expected("data", "PairsDataModule", "a data module with training images", remedy))
        if self._found is None:
            self._found = _unpack(self.pairs_file) if self.holds_images else _find(self.root, self.pairs_file)

    def test_dataloader(self) -> FileLoader:
        """The listed images, in order, with their labels."""
        preprocessor = self._preprocessor
        if preprocessor is None:
            raise RuntimeError("PairsDataModule: call use_preprocessing() before test_dataloader()")
        found = self._ready
        files = list_files((name, -1, label) for name, label in zip(found.names, found.labels, strict=True))
        return FileLoader(
            ImageFiles(self.root, files, preprocessor, contents=found.contents),
            batch_size=self.eval_batch_size,
            normalization=preprocessor.normalization,
            num_workers=self.num_workers,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )

    @property
    def _ready(self) -> "_Found":
        if self._found is None:
            raise RuntimeError("call setup() first")
        return self._found


class _Found(NamedTuple):
    names: list[str]
    labels: list[int]
    class_names: list[str]
    pairs: Pairs
    contents: Callable[[str], bytes] | None = None


def _unpack(path: Path) -> _Found:
    images, is_genuine = read_verification_set(path)
    contents = {f"image {place}": content for place, content in enumerate(images)}
    first, second = torch.arange(len(images)).view(-1, 2).unbind(dim=1)
    pairs = Pairs(first, second, is_genuine, dealt_folds(is_genuine))
    return _Found(list(contents), [UNKNOWN] * len(images), [], pairs, contents.__getitem__)


def _find(root: Path, pairs_file: Path) -> _Found:
    listing = read_pairs(pairs_file)
    numbers: dict[str, int] = {}
    indices = []
    resolved: dict[Any, str | None] = {}
    missing = []
    for pair in listing.pairs:
        for image in (pair.first, pair.second):
            if image not in resolved:
                resolved[image] = _locate(root, image)
                if resolved[image] is None:
                    missing.append(f"line {pair.line}: {_wanted(image)}")
            if (name := resolved[image]) is not None:
                indices.append(numbers.setdefault(name, len(numbers)))
    if missing:
        raise DataError(
            f"data.pairs_file {pairs_file}: {len(missing):,} images are not in {root}: {listed(missing)}; expected "
            f"them there, with a suffix of {', '.join(IMAGE_SUFFIXES)}. Set data.root if they are elsewhere"
        )
    folders = [str(Path(name).parent) for name in numbers]
    class_names = sorted(set(folders))
    labels = {name: label for label, name in enumerate(class_names)}
    first, second = torch.tensor(indices).view(-1, 2).unbind(dim=1)
    pairs = Pairs(first, second, torch.tensor([pair.is_genuine for pair in listing.pairs]), listing.folds)
    return _Found(list(numbers), [labels[folder] for folder in folders], class_names, pairs)


def _locate(root: Path, image: str | tuple[str, int]) -> str | None:
    """Return the path of an image relative to ``root``, or None if it is missing."""
    if isinstance(image, str):
        return image if os.path.isfile(root / image) else None
    stem = f"{image[0]}_{image[1]:04d}"
    stems = (f"{image[0]}/{stem}", stem)
    suffixes = (*IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES))
    candidates = (f"{place}{suffix}" for place in stems for suffix in suffixes)
    return next((name for name in candidates if os.path.isfile(root / name)), None)


def _wanted(image: str | tuple[str, int]) -> str:
    return image if isinstance(image, str) else f"{image[0]}/{image[0]}_{image[1]:04d}"
