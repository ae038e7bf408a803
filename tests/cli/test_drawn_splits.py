"""Images that a model is measured on may be among those that it was trained on: said, where the split may differ."""

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from arcface_pl.cli.drawn_splits import warn_of_trained_images
from arcface_pl.data import ImageDataModule, ImageFolderDataModule, MNISTDataModule, TableDataModule
from arcface_pl.data.protocol import facts_of

SETTINGS: dict[str, Any] = {"image_size": 8, "in_channels": 1, "val_fraction": 0.3, "test_fraction": 0.2, "seed": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    generator = np.random.default_rng(0)
    with (folder / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        for name in ("a", "b"):
            for number in range(10):
                path = folder / "images" / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
                rows.writerow([path, name])
    return folder


def made(root: Path, kind: Any = ImageFolderDataModule, **changed: Any) -> ImageDataModule:
    place = {"table": str(root / "list.csv")} if kind is TableDataModule else {"root": str(root / "images")}
    data = MNISTDataModule(dataset="digits", **changed) if kind is MNISTDataModule else None
    data = kind(**{**place, **SETTINGS, **changed}) if data is None else data
    data.prepare_data()
    data.setup("test")
    return data


def said(data: ImageDataModule, trained_on: dict[str, Any], caplog: pytest.LogCaptureFixture, split: str) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_of_trained_images(data, split, Path("model.ckpt"), trained_on)
    assert len(caplog.messages) <= 1
    return "".join(caplog.messages)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_of_a_folder(
    root: Path, split: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    facts = facts_of(made(root))
    assert said(made(root), facts, caplog, split) == ""
    assert said(made(root), facts, caplog, "train") == ""
    changed = said(made(root, seed=6, val_fraction=0.4), facts, caplog, split)
    assert changed == (
        f"the {split} images are drawn otherwise: in training data.seed 5, here 6; data.val_fraction 0.3, here 0.4. "
        "The network was trained on some of them"
    )
    table = said(made(root, TableDataModule), facts, caplog, split)
    assert table.startswith(f"the {split} images are drawn from those of TableDataModule, in training from those of I")
    unknown = said(made(root, seed=None), {"class_names": ["a", "b"]}, caplog, split)
    assert unknown == (
        f"the {split} images are drawn by data.seed 0, and model.ckpt does not tell the seed of its training: "
        "it may know some of them. Give the run's --data.seed"
    )
    assert said(made(root), {"class_names": ["a", "b"]}, caplog, split) == ""  # the seed was given
    assert said(made(root, seed=6), {**facts, "kwargs": {**facts["kwargs"], "root": "other"}}, caplog, split) == ""


def test_the_seed_of_a_run_is_its_datas(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    facts = {**facts_of(made(root)), "seed": 7}
    facts["kwargs"] = {**facts["kwargs"], "seed": None}
    assert said(made(root, seed=7), facts, caplog, "val") == ""
    assert "data.seed 7, here 6" in said(made(root, seed=6), facts, caplog, "val")


def test_a_fixed_test_set_and_other_images_are_no_matter(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    digits = made(root, MNISTDataModule, seed=5)
    facts = facts_of(made(root, MNISTDataModule, seed=6))
    assert said(digits, facts, caplog, "test") == ""
    assert "data.seed 6, here 5" in said(digits, facts, caplog, "val")
    assert said(made(root), facts, caplog, "val") == ""
    assert said(made(root, MNISTDataModule, val_fraction=0.0), facts, caplog, "val") == ""
