"""The worked example: a data set written as folders of PNG files, trained on, and evaluated on a list of pairs."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

from arcface_pl.cli import main
from arcface_pl.data import ImageFolderDataModule, MNISTDataModule
from arcface_pl.data.folders.pairs_file import read_pairs

SCRIPTS = Path(__file__).parents[2] / "scripts"
DATA_DIR = os.environ.get("ARCFACE_PL_DATA_DIR")  # before a fixture takes it away
GENUINE = DATA_DIR is not None and (Path(DATA_DIR) / "FashionMNIST" / "raw").is_dir()


def write_folders(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    spec = importlib.util.spec_from_file_location("write_folders", SCRIPTS / "write_folders.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", ["write_folders.py", *flags])
    module.main()


def test_what_is_written_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(monkeypatch, "--dataset", "digits", "--out", "digits_png", "--pairs", "40")
    data = ImageFolderDataModule("digits_png", image_size=28, in_channels=1, num_workers=0, val_fraction=0.0)
    data.setup("fit")
    train, test = MNISTDataModule(dataset="digits").load()
    for found, expected in ((data.train_dataloader().data, train), (data.test_dataloader().data, test)):
        order = torch.argsort(expected.labels, stable=True)
        assert torch.equal(found.images, expected.images[order])
        assert torch.equal(found.labels, expected.labels[order])
    listing = read_pairs(Path("digits_png/pairs.txt"))
    assert [pair.is_genuine for pair in listing.pairs] == [True, False] * 40
    for pair in listing.pairs:
        assert (str(Path(str(pair.first)).parent) == str(Path(str(pair.second)).parent)) == pair.is_genuine
        assert pair.first != pair.second


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.skipif(not GENUINE, reason="needs the genuine Fashion-MNIST files in $ARCFACE_PL_DATA_DIR")
def test_fashion_mnist_as_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred pieces of clothing of each kind, as somebody's own pictures."""
    assert DATA_DIR is not None
    small = ["--per_class", "200", "--pairs", "500"]
    write_folders(monkeypatch, "--dataset", "fashion_mnist", "--data_dir", DATA_DIR, "--out", "fashion", *small)
    own = ["--data", "ImageFolderDataModule", "--data.root", "fashion"]
    shape = ["--data.image_size", "28", "--data.in_channels", "1", "--data.num_workers", "0"]
    quiet = ["--accelerator", "cpu", "--enable_progress_bar", "false"]
    main(["fit", *own, *shape, *quiet, "--data.shift", "1", "--max_epochs", "6"])
    run = tmp_path / "lightning_logs" / "version_0"
    results = json.loads((run / "results.json").read_text())
    assert results["dataset"] == "fashion"
    assert results["test/accuracy"] > 0.7
    listing = ["--data.root", "fashion", "--data.pairs_file", "fashion/pairs.txt"]
    with pytest.raises(SystemExit) as done:
        main(["evaluate", "best", "--data", "PairsDataModule", *listing])
    assert not done.value.code
    evaluated = json.loads((run / "evaluate-pairs.json").read_text())
    scores = evaluated["unseen"]["pairs"]
    assert scores["num_genuine"] == scores["num_impostor"] == 500
    assert scores["eer"] < 0.25
    assert scores["fold_accuracy"] > 0.75
