"""A warning where images that a model is measured on may be among those that it was trained on."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arcface_pl.data import ImageDataModule
from arcface_pl.errors import printable
from arcface_pl.seeding import run_seed

_LOG = logging.getLogger(__name__)


def warn_of_trained_images(data: ImageDataModule, split: str, path: Path, trained_on: Mapping[str, Any]) -> None:
    """Warn if a split is drawn by another seed or share, or from another list of images, than in training.

    Args:
        data: After ``setup``.
        split: "train", "val" or "test".
        path: The model's file or folder.
        trained_on: What it tells about its data.
    """
    counts = {"val": data.num_val, "test": data.num_test}
    if counts.get(split) and data.is_drawn(split) and (fault := _fault(data, path, trained_on)):
        _LOG.warning("the %s images are drawn %s", split, fault)


def _fault(data: ImageDataModule, path: Path, trained_on: Mapping[str, Any]) -> str:
    name, saved, here = trained_on.get("name"), trained_on.get("kwargs"), dict(data.hparams)
    is_seed_given = here.get("seed") is not None
    seeds = {"seed": here["seed"] if is_seed_given else run_seed()}
    if saved is None:
        unknown = f"{printable(path)} does not tell the seed of its training: it may know some of them"
        return "" if is_seed_given else f"by data.seed {seeds['seed']}, and {unknown}. Give the run's --data.seed"
    if name != type(data).__name__:  # a table may list a folder's images
        fault = f"from those of {type(data).__name__}, in training from those of {name}: it may have trained on some"
        return fault if "root" in saved else ""
    if any(saved.get(each) != here.get(each) for each in ("root", "table", "dataset")):
        return ""  # other images
    then = {**saved, "seed": trained_on.get("seed") if saved.get("seed") is None else saved["seed"]}
    now = {**here, **seeds}
    changed = [
        f"data.{each} {then[each]}, here {now[each]}"
        for each in ("seed", "val_fraction", "test_fraction")
        if each in then and each in now and then[each] != now[each]
    ]
    return f"otherwise: in training {'; '.join(changed)}. The network was trained on some of them" if changed else ""
