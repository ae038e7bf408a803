"""``arcface-pl embed``: what the file holds is what the network gives, row by row."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from tiny_runs import DIGITS_FACTS, save_model

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule, Recognizer
from arcface_pl.cli import main


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of the digits, and pictures of two people, one of which is damaged."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = ArcFaceModule(FastCNN(16, width=4), ArcFaceHead(16, 10))
    save_model(module, "model.ckpt", **DIGITS_FACTS)
    draw = np.random.default_rng(0)
    for name in ("ada", "eve"):
        Path("people", name).mkdir(parents=True)
        for number in range(5):
            digit = np.zeros((28, 28), np.uint8)
            digit[4:24, 11:16] = draw.integers(100, 256, (20, 5))
            Image.fromarray(digit).save(Path("people", name, f"{number}.png"))
    Path("people/ada/2.png").write_bytes(b"no picture")
    return tmp_path


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["embed", "model.ckpt", *words])
    return int(ended.value.code or 0)


def test_pictures(place: Path, capsys: pytest.CaptureFixture) -> None:
    assert call("people/ada", "people/eve") == 1
    assert capsys.readouterr().err.startswith("people/ada/2.png: not an image")
    with np.load("embeddings.npz", allow_pickle=False) as file:
        found = dict(file)
    files = [f"people/{name}/{number}.png" for name in ("ada", "eve") for number in range(5)]
    del files[2]
    assert found["paths"].tolist() == files
    assert found["ids"].tolist() == [0, 1, *range(3, 10)]
    assert (found["labels"] == -1).all()
    assert found["embeddings"].dtype == np.float32
    expected = Recognizer.from_checkpoint("model.ckpt").embed(files)
    torch.testing.assert_close(torch.from_numpy(found["embeddings"]), expected, rtol=0, atol=1e-6)


def test_flip_adds_the_mirror_images(place: Path) -> None:
    files = [f"people/eve/{number}.png" for number in range(5)]
    assert call("people/eve", "--flip") == 0
    model = Recognizer.from_checkpoint("model.ckpt").model
    ((batch, _),) = model.batches(files)
    mirrored = torch.from_numpy(batch.numpy()[..., ::-1].copy())
    total = model.backbone(batch) + model.backbone(mirrored)
    with np.load("embeddings.npz") as file:
        np.testing.assert_allclose(file["embeddings"], F.normalize(total).numpy(), atol=1e-6)
        assert file["flip"]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_data_of_the_run_in_every_format(place: Path, split: str) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    for suffix in (".npz", ".safetensors", ".parquet"):
        assert call("--split", split, "--output", f"found{suffix}") == 0
    data = MNISTDataModule(dataset="digits", seed=0)
    data.prepare_data()
    data.setup("test")
    data.normalize_as((0.0,), (1.0,))  # as the checkpoint, which tells nothing of it
    loader = data.train_sample_dataloader(None) if split == "train" else getattr(data, f"{split}_dataloader")()
    images, labels = (torch.cat(part) for part in zip(*loader, strict=True))
    with torch.no_grad():
        expected = F.normalize(Recognizer.from_checkpoint("model.ckpt").model.backbone(images), dim=1).numpy()
    with np.load("found.npz") as file:
        np.testing.assert_allclose(file["embeddings"], expected, atol=2e-6)
        assert file["labels"].tolist() == labels.tolist()
        assert file["classes"].tolist() == [str(label) for label in labels.tolist()]
        embeddings = file["embeddings"]
    with safe_open("found.safetensors", "np") as tensors:
        assert (tensors.get_tensor("embeddings") == embeddings).all()
        assert tensors.get_tensor("labels").tolist() == labels.tolist()
        assert json.loads(tensors.metadata()["class_names"]) == [str(digit) for digit in range(10)]
    table = pq.read_table("found.parquet").to_pydict()
    assert np.array_equal(np.array(table["embedding"], np.float32), embeddings)
    assert table["label"] == labels.tolist()
    assert table["id"] == list(range(len(labels)))


def test_a_folder_of_classes_has_their_names_and_paths(place: Path) -> None:
    Path("people/ada/2.png").unlink()
    where = ("--data", "ImageFolderDataModule", "--data.root", "people", "--data.test_fraction", "0.4")
    for resident in ("true", "false"):
        assert call(*where, "--data.resident", resident, "--output", f"{resident}.npz", "--data.num_workers", "0") == 0
        with np.load(f"{resident}.npz") as file:
            assert len(file["paths"])
            for path, name in zip(file["paths"].tolist(), file["classes"].tolist(), strict=True):
                assert Path(path).is_file()
                assert Path(path).parent.name == name
            expected = Recognizer.from_checkpoint("model.ckpt").embed(file["paths"].tolist())
            assert expected.shape == file["embeddings"].shape


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_pictures_of_the_embeddings(place: Path) -> None:
    assert call("--tsne", "tsne.png") == 0
    with Image.open("tsne.png") as picture:
        assert picture.size[0] > 800


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--output", "a.csv"], "--output: got 'a.csv'; expected a name that ends in .npz or .safetensors or .parquet"),
        (["--tsne", "a.jpg"], "--tsne: got 'a.jpg'; expected a name that ends in .png"),
        (["people", "--data", "ImageFolderDataModule"], "IMAGE: got 'people'; expected no pictures with --data"),
        (["people/ada/2.png"], "IMAGE: got 'people/ada/2.png'; expected pictures that can be read"),
        (["nowhere"], "there is no such file"),
        (["--split", "val", "--data.val_fraction", "0"], "has no such images with these settings"),
        (["--output", "theirs.npz"], "--output: got 'theirs.npz'; expected a new path"),
    ],
)
def test_a_mistake_is_one_line(place: Path, words: list[str], told: str, capsys: pytest.CaptureFixture) -> None:
    Path("theirs.npz").write_bytes(b"somebody's own work")
    assert call(*words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not Path("embeddings.npz").exists()


def test_a_missing_library_is_named_before_the_work(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert call("--output", "a.parquet") == 2
    assert "pyarrow is not installed; pip install 'arcface_pl[parquet]'" in capsys.readouterr().err
