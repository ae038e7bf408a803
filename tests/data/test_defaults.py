"""What a data module does where nothing is set."""

import yaml

from arcface_pl.cli.config import BASE_CONFIG
from arcface_pl.data import ImageFolderDataModule, MNISTDataModule, PairsDataModule


def test_the_base_config_documents_the_constructors_defaults() -> None:
    written = yaml.safe_load(BASE_CONFIG.read_text())["data"]["init_args"]
    used = MNISTDataModule().hparams  # what it was given, or took in its place
    compared = written.keys() & used.keys()
    assert {"batch_size", "val_fraction", "rotation", "shift", "zoom"} <= compared
    assert {name: used[name] for name in compared} == {name: written[name] for name in compared}


def test_the_config_of_folders_documents_their_defaults() -> None:
    written = yaml.safe_load((BASE_CONFIG.parent / "folder.yaml").read_text())["data"]["init_args"]
    used = ImageFolderDataModule("people").hparams
    compared = {name for name in ("rotation", "shift", "zoom") if name in written}
    assert "shift" in compared
    assert {name: used[name] for name in compared} == {name: written[name] for name in compared}


def test_settings_that_only_affect_speed_are_the_same_everywhere() -> None:
    modules = (ImageFolderDataModule("people"), MNISTDataModule(), PairsDataModule("people", "pairs.txt"))
    assert len({module.hparams["eval_batch_size"] for module in modules}) == 1
