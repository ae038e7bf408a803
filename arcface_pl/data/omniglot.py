"""`OmniglotDataModule`: handwritten characters of 30 alphabets to train on, and of 20 others to recognize."""

import logging
from dataclasses import astuple
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from arcface_pl.data.base import ImageDataModule
from arcface_pl.data.classes import ClassSplit, split_classes
from arcface_pl.data.elastic import drawn_augmentation
from arcface_pl.data.labelled import LabelledImages
from arcface_pl.data.parts import Parts
from arcface_pl.data.sources import catalog
from arcface_pl.data.sources.find import fetch_dataset, find_folder, is_first_of_machine, missing
from arcface_pl.data.sources.omniglot_files import DRAWERS, SIZE, OneShotRun, read_characters, read_runs, shrink
from arcface_pl.errors import DataError, expected
from arcface_pl.functional.checks import check_choice, check_count
from arcface_pl.preprocessing import check_channel_order
from arcface_pl.seeding import derive_seed

_LOG = logging.getLogger(__name__)
_WAYS = 20
_RUNS_PER_ALPHABET = 40  # drawn from the alphabets held out for validation


class OmniglotDataModule(ImageDataModule):
    """Omniglot: 1,623 characters of 50 alphabets, each drawn once by 20 people.

    The 964 characters of the 30 background alphabets are the classes to train on. The 659 of the 20 evaluation
    alphabets are always held out, as the test images of `held_out_dataloader`. Alphabets in ``held_out_classes`` are
    taken out of the background, whole, to choose settings by: they are its validation images.

    Images are ink on paper (white on black) in [0, 255], resized once and kept in memory.

    Args:
        data_dir: Folder of ``omniglot-py``, which holds or receives the archives; the folders that torchvision unpacks
            are read, too. $ARCFACE_PL_DATA_DIR and data are searched after it.
        image_size: Height and width to which images are resized, in pixels, 8 to 105.
        resize: area for the share of each pixel's area that is ink; bold to make the thin strokes a pixel wider on each
            side first, which keeps their contrast.
        rotations: Also train on each character turned by 90, 180 and 270 degrees, as further classes.
        augment: Change training images at random. If false, the four settings below have no effect.
        rotation: Largest rotation in either direction, in degrees, 0 to 180.
        shift: Largest shift along either axis, in pixels, 0 to 1000.
        zoom: Largest relative change of size, in [0, 1): 0.1 draws factors from 0.9 to 1.1.
        elastic: Elastic distortion: standard deviation of the smooth random displacement of pixels along either axis,
            in pixels, at least 0.
        val_fraction: As in `ImageDataModule`: a share of the drawings of trained characters. The default is 0.
        **kwargs: Arguments of `ImageDataModule`. ``classes`` and ``held_out_classes`` are background alphabets, such as
            ``[Greek, Latin]``.

    Raises:
        ValueError: If a value is out of range.

    Reference:
        Lake, Salakhutdinov, Tenenbaum 2015, Human-level concept learning through probabilistic program induction.
    """

    numbered_classes = False
    in_channels = 1

    def __init__(
        self,
        data_dir: str = "data",
        image_size: int = 32,
        resize: Literal["area", "bold"] = "area",
        rotations: bool = False,
        augment: bool = True,
        rotation: float = 15.0,
        shift: float = 2.0,
        zoom: float = 0.15,
        elastic: float = 0.0,
        val_fraction: float = 0.0,
        **kwargs: Any,
    ) -> None:
        data_dir = str(data_dir)  # a checkpoint cannot hold a Path
        strengths = drawn_augmentation(rotation, shift, zoom, elastic)
        if kwargs.get("augmentation") is None and augment and any(astuple(strengths)):
            kwargs["augmentation"] = strengths  # a saved config has null
        super().__init__(val_fraction=val_fraction, **kwargs)
        check_count("image_size", image_size, low=8)
        if image_size > SIZE:
            raise ValueError(expected("image_size", image_size, f"at most {SIZE}, the size of the drawings"))
        check_choice("resize", resize, ("area", "bold"))
        check_channel_order(self.channel_order, self.in_channels)
        if not data_dir or "\0" in data_dir:
            raise ValueError(expected("data_dir", data_dir, "the name of a folder"))
        if self.watch_test:
            accepted = "false: test images are of characters that are not trained on"
            raise ValueError(expected("watch_test", self.watch_test, accepted))
        self.data_dir, self.resize, self.rotations = data_dir, resize, rotations
        self._image_size = image_size
        self.one_shot_runs: dict[str, list[OneShotRun]] = {}
        """One-shot runs within an alphabet, by split, as indices into the held-out images; known after `setup`. "test"
        has the 20 official ones, "val" 40 per alphabet in ``held_out_classes``, drawn likewise."""
        _ = self.class_split  # raises before any work

    @property
    def dataset_name(self) -> str:
        """Name of the data set."""
        return "omniglot"

    @property
    def image_size(self) -> int:
        """Height and width of the resized images, in pixels."""
        return self._image_size

    @cached_property
    def all_class_names(self) -> list[str]:
        """Names such as Greek/character01: background, evaluation, and the background's rotated characters."""
        background, evaluation = (
            [f"{name}/character{number:02d}" for name, count in alphabets.items() for number in range(1, count + 1)]
            for alphabets in (catalog.BACKGROUND_ALPHABETS, catalog.EVALUATION_ALPHABETS)
        )
        angles = (90, 180, 270) if self.rotations else ()
        return background + evaluation + [f"{name} rotated {angle}" for angle in angles for name in background]

    @property
    def class_split(self) -> ClassSplit:
        """Labels of the characters that are trained on, and of those that are held out.

        Raises:
            ValueError: If ``classes`` or ``held_out_classes`` is invalid, or they contradict each other.
        """
        alphabets = catalog.BACKGROUND_ALPHABETS
        chosen = split_classes(
            list(alphabets), self.classes, self.held_out_classes, numbered=False, fewest=1, seed=self._run_seed
        )
        labels = torch.arange(sum(alphabets.values())).split(list(alphabets.values()))
        trained, held_out = ([int(label) for place in places for label in labels[place]] for places in chosen)
        count, first_rotated = sum(alphabets.values()), len(self.all_class_names)
        if self.rotations:
            first_rotated -= 3 * count
            trained += [first_rotated + turn * count + label for turn in range(3) for label in trained]
        return ClassSplit(trained, held_out + list(range(count, first_rotated)))

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the background's drawings, on a scale of 0 to 1."""
        return catalog.OMNIGLOT.mean, catalog.OMNIGLOT.std

    @property
    def picture_style(self) -> dict[str, Any]:
        """Kind of images, as arguments of `Preprocessor`: characters are 0.65 of the drawings large."""
        return {"style": "ink", "ink_share": 0.65}

    def prepare_data(self) -> None:
        """Download missing archives, on the first process of a machine.

        Raises:
            DataError: If the images are missing and cannot be downloaded. Without the one-shot runs only a warning is
                logged.
        """
        if not is_first_of_machine():
            return
        for spec in (catalog.OMNIGLOT, catalog.OMNIGLOT_RUNS):
            if find_folder(spec, self.data_dir) is None:
                try:
                    fetch_dataset(spec, self.data_dir)
                except DataError as error:
                    if spec is catalog.OMNIGLOT:
                        raise
                    _LOG.warning("%s", error)

    def load_parts(self) -> Parts:
        """Read, check, resize and split the images, on the CPU.

        Raises:
            DataError: If a file is missing or damaged.
        """
        full, test, official = self.load()
        num_background = len(full)
        if self.rotations:
            full = torch.cat([full.rot90(turn, (2, 3)) for turn in range(4)])
        labels = torch.arange(len(self.all_class_names)).repeat_interleave(DRAWERS)
        first, end = num_background, num_background + len(test)
        parts = self.split(
            LabelledImages(full, torch.cat([labels[:first], labels[end:]])), LabelledImages(test, labels[first:end])
        )
        self.one_shot_runs = {"val": self._draw_runs(), "test": official}
        return parts

    def load(self) -> tuple[Tensor, Tensor, list[OneShotRun]]:
        """Read, check and resize the images, on the CPU.

        Returns:
            Drawings of the background, (19280, 1, S, S), and of the evaluation, (13180, 1, S, S), uint8, by class and
            drawer; and the official one-shot runs, none if their archive is missing.

        Raises:
            DataError: If a file is missing or damaged.
        """
        folder = find_folder(catalog.OMNIGLOT, self.data_dir)
        if folder is None:
            raise missing(catalog.OMNIGLOT, self.data_dir)
        background = read_characters(folder, "images_background", catalog.BACKGROUND_ALPHABETS)
        evaluation = read_characters(folder, "images_evaluation", catalog.EVALUATION_ALPHABETS)
        full, test = (shrink(ink, self.image_size, bold=self.resize == "bold") for ink in (background, evaluation))
        runs_folder = find_folder(catalog.OMNIGLOT_RUNS, self.data_dir)
        return full, test, [] if runs_folder is None else read_runs(runs_folder, evaluation)

    def _draw_runs(self) -> list[OneShotRun]:
        """Draw one-shot runs from the validation alphabets like the official ones: two people draw up to 20 characters.

        The same for every run, so that runs can be compared.
        """
        names = self.held_out_class_names
        runs = []
        for alphabet in dict.fromkeys(name.split("/")[0] for name in names):
            if alphabet not in catalog.BACKGROUND_ALPHABETS:
                continue
            members = torch.tensor([label for label, name in enumerate(names) if name.split("/")[0] == alphabet])
            for number in range(_RUNS_PER_ALPHABET):
                generator = torch.Generator().manual_seed(derive_seed("one-shot run", alphabet, number))
                characters = members[torch.randperm(len(members), generator=generator)[:_WAYS]]
                first, second = torch.randperm(DRAWERS, generator=generator)[:2].tolist()
                places = characters * DRAWERS
                runs.append(OneShotRun(places + first, places + second, torch.arange(len(characters))))
        return runs
