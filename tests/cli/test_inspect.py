"""``arcface-pl inspect``: what its files hold is what the network and the pixels say."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule
from arcface_pl.cli import main
from arcface_pl.metrics.functional import target_angles


def write_model(path: Path, sub_centers: int = 1) -> ArcFaceModule:
    torch.manual_seed(0)
    module = ArcFaceModule(FastCNN(16, width=4), ArcFaceHead(16, 10, sub_centers=sub_centers)).eval()
    facts = {"name": "MNISTDataModule", "kwargs": {"dataset": "digits"}, "dataset_name": "digits", "seed": 0}
    facts["class_names"] = [str(digit) for digit in range(10)]
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "data": facts}, path)
    return module


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "model.ckpt", *words])
    return int(ended.value.code or 0)


def read(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_folders(root: Path, classes: int = 3, each: int = 6) -> None:
    digits = load_digits()
    for label in range(classes):
        (root / f"digit_{label}").mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.target == label][:each]):
            pixels = np.asarray(Image.fromarray((image * 255 / 16).astype(np.uint8)).resize((28, 28)))
            Image.fromarray(pixels).save(root / f"digit_{label}" / f"{number}.png")


def test_the_list_has_the_angles_of_every_image(place: Path, capsys: pytest.CaptureFixture) -> None:
    module = write_model(place / "model.ckpt")
    assert call("--split", "test", "--output", "audit", "--images", "9") == 0
    printed = capsys.readouterr().out
    data = MNISTDataModule(dataset="digits", seed=0)
    data.prepare_data()
    data.setup("test")
    data.normalize_as((0.0,), (1.0,))  # as the checkpoint, which tells nothing of it
    images, labels = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    with torch.no_grad():
        angles = target_angles(module(images), labels, module.head.weight)
    rows = read("audit/labels.csv")
    assert [int(row["rank"]) for row in rows] == list(range(1, len(labels) + 1))
    order = [int(row["path"]) for row in rows]
    assert sorted(order) == list(range(len(labels)))
    assert {row["split"] for row in rows} == {"test"}
    assert [int(row["label"]) for row in rows] == labels[order].tolist()
    assert [int(row["looks_like"]) for row in rows] == angles.nearest_class[order].tolist()
    for name, wanted in (("angle", angles.target), ("nearest_other_angle", angles.nearest_other)):
        found = torch.tensor([float(row[name]) for row in rows]).double()
        torch.testing.assert_close(found, torch.rad2deg(wanted[order]), atol=1e-2, rtol=0)
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    found = json.loads(Path("audit/labels.json").read_text())
    assert [each["path"] for each in found["images"]] == [row["path"] for row in rows]
    assert (found["num_images"], found["folds"]) == (len(labels), 0)
    assert f"{sum(score > 0 for score in scores)} images are nearer to another class" in printed.replace(",", "")
    with Image.open("audit/labels.png") as sheet:
        assert sheet.size[0] > 800
    assert call("--split", "test", "--output", "audit", "--images", "0") == 0  # again: its own files are replaced
    assert not Path("audit/labels.png").exists()


def test_sub_centers_that_are_not_dominant_are_marked(place: Path) -> None:
    write_model(place / "model.ckpt", sub_centers=3)
    assert call("--split", "val", "--images", "0") == 0
    assert {row["dominant_center"] for row in read("inspect/labels.csv")} == {"true", "false"}


def test_a_folder_of_other_classes_and_images_that_two_share(place: Path) -> None:
    write_model(place / "model.ckpt")
    write_folders(place / "photos")
    Path("photos/digit_1/stolen.png").write_bytes(Path("photos/digit_0/0.png").read_bytes())
    with Image.open("photos/digit_0/1.png") as image:
        dark = np.asarray(image) // 2 + 20
    Image.fromarray(dark.astype(np.uint8)).save("photos/digit_2/darker.png")
    where = ("--data", "ImageFolderDataModule", "--data.root", "photos", "--data.num_workers", "0")
    assert call(*where, "--output", "audit") == 0
    rows = read("audit/labels.csv")
    assert sorted(row["path"] for row in rows) == sorted(map(str, Path("photos").rglob("*.png")))
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    for row in rows:
        assert Path(row["path"]).parent.name == row["label"] != row["looks_like"]
    pairs = {tuple(sorted(Path(row[name]).name for name in ("path", "other_path"))) for row in read("audit/shared.csv")}
    assert {("0.png", "stolen.png"), ("1.png", "darker.png")} <= pairs
    assert float(read("audit/shared.csv")[0]["similarity"]) == 1
    assert Path("audit/shared.png").is_file()
    assert call(*where, "--output", "audit", "--similarity", "1") == 0
    assert len(read("audit/shared.csv")) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--folds", "1"], "--folds: got 1; expected 0 for none, or a number of folds from 2 to 100"),
        (["--folds", "x"], "--folds: got 'x'; expected 0 for none, or a number of folds from 2 to 100"),
        (["--folds", "2", "--split", "test"], "--folds: got 2; expected 0 with --split test"),
        (
            ["--folds", "2", "--data", "PairsDataModule", "--data.root", "x", "--data.pairs_file", "y"],
            "--data: got 'PairsDataModule'; expected an ImageDataModule with --folds",
        ),
        (["--max_epochs", "3"], "--max_epochs: got 3; expected none without --folds"),
        (["--similarity", "0"], "--similarity: got '0'; expected a correlation from 0.5 to 1"),
        (["--output", "theirs"], "--output: got 'theirs/labels.png'; expected a new path"),
        (["--output", "theirs/labels.png"], "theirs/labels.png is a file"),
        (["--split", "val", "--data.val_fraction", "0"], "expected a data module with val images"),
    ],
)
def test_a_mistake_is_one_line(place: Path, words: list[str], told: str, capsys: pytest.CaptureFixture) -> None:
    write_model(place / "model.ckpt")
    Path("theirs").mkdir()
    Path("theirs/labels.png").write_bytes(b"somebody's own work")
    assert call(*words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert Path("theirs/labels.png").read_bytes() == b"somebody's own work"


def test_a_signal_while_a_fold_trains_is_no_success(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's handler of SIGTERM leaves with code 0."""
    write_model(place / "model.ckpt")

    def send(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(ArcFaceModule, "on_train_start", send)
    assert call("--folds", "2", "--max_epochs", "1", "--accelerator", "cpu") == 128 + signal.SIGTERM
    assert not Path("inspect").exists()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_planted_labels_are_found_from_the_command_line(place: Path) -> None:
    write_folders(place / "digits", classes=10, each=60)
    random = np.random.default_rng(0)
    planted = set()
    for number in random.choice(600, 30, replace=False).tolist():
        label, image = divmod(number, 60)
        other = (label + int(random.integers(1, 10))) % 10
        path = Path(f"digits/digit_{other}/planted_{label}_{image}.png")
        Path(f"digits/digit_{label}/{image}.png").rename(path)
        planted.add(str(path))
    small = ["--data.image_size", "28", "--data.in_channels", "1", "--data.flip", "false", "--data.num_workers", "0"]
    small += ["--model.backbone", "FastCNN", "--accelerator", "cpu", "--data.root", "digits", "--data.batch_size", "32"]
    main(["fit", "-c", "folder", *small, "--max_epochs", "6", "--model.head.margin", "0.2"])
    before = set(place.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "best", "--folds", "3"])
    assert not ended.value.code
    left = {path.name for path in set(place.rglob("*")) - before}
    assert left - {"inspect", "labels.csv", "labels.json", "labels.png", "shared.csv", "shared.png"} == set()
    rows = read("lightning_logs/version_0/inspect/labels.csv")
    assert len(rows) == 600
    first = {row["path"] for row in rows[:60]}
    assert len(planted & first) >= 27  # by chance 3
    truth = {str(path): f"digit_{path.name.split('_')[1]}" for path in map(Path, planted)}
    right = [row["looks_like"] == truth[row["path"]] for row in rows if row["path"] in truth]
    assert sum(right) >= 24
