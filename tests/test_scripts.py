"""The scripts that make the README's table and pictures."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import QUIET

from arcface_pl import ArcFaceHead, ArcFaceModule, MNISTDataModule, SimpleCNN
from arcface_pl.checkpoints.runs import ELSEWHERE
from arcface_pl.cli.config import BASE_CONFIG, read_config
from arcface_pl.cli.layers import import_class, merge
from arcface_pl.cli.settings import ArcFaceCLI

SCRIPTS = Path(__file__).parents[1] / "scripts"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def reproduce() -> ModuleType:
    return load("reproduce")


def test_source_is_the_document() -> None:
    settings = merge(read_config(BASE_CONFIG), read_config("source"))
    settings["trainer"] |= {"logger": False, "accelerator": "cpu"}
    config = ArcFaceCLI(settings).config
    model, data = config.model, config.data.init_args
    assert import_class(model.backbone.class_path) is SimpleCNN
    assert model.backbone.init_args.embedding_dim == 128
    head = model.head.init_args
    assert (head.scale, head.margin, head.extension, head.sub_centers) == (30.0, 0.5, "none", 1)
    assert (head.class_margins, head.margin_warmup_epochs) == ("equal", 0)
    adam = model.optimizer.init_args
    assert model.optimizer.class_path == "torch.optim.Adam"
    assert (adam.lr, tuple(adam.betas), adam.eps, adam.weight_decay) == (1e-3, (0.9, 0.999), 1e-8, 0.0)
    assert (model.lr_schedule, model.head_lr) == (None, None)
    assert (data.batch_size, data.val_fraction, data.watch_test) == (64, 0.0, True)
    assert (data.normalize, data.augment) == (False, False)
    assert (config.trainer.max_epochs, config.trainer.precision) == (10, "32-true")
    assert config.trainer.gradient_clip_val is None


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_second_pass_measures_both_ways_on_all_training_images(reproduce: ModuleType) -> None:
    torch.manual_seed(0)
    module = ArcFaceModule(SimpleCNN(8), ArcFaceHead(8, 10, extension="none"))
    data = MNISTDataModule(dataset="digits", val_fraction=0.0, watch_test=True, augment=False, seed=0)
    recorder = reproduce.BothWays()
    trainer = L.Trainer(**QUIET, max_epochs=3, callbacks=[recorder])
    trainer.fit(module, datamodule=data)
    assert module.training  # the pass leaves the network as it was

    parts = {"train": data.train_dataloader().data, "test": data.test_dataloader().data}
    (mean,), (std,) = data.normalization
    for split, (images, labels) in parts.items():
        with torch.no_grad():
            embeddings = module((images / 255 - mean) / std).double().numpy()
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        centers = module.head.weight.detach().double().numpy()
        centers /= np.linalg.norm(centers, axis=1, keepdims=True)
        cosine, rows = embeddings @ centers.T, np.arange(len(labels))
        honest = (cosine.argmax(axis=1) == labels.numpy()).mean()
        # The document's evaluation: the margin on the true class, and with it the label, in the logits.
        cosine[rows, labels] = np.cos(np.arccos(cosine[rows, labels]) + 0.5)
        margin = (cosine.argmax(axis=1) == labels.numpy()).mean()
        assert 0 < margin < honest
        last = recorder.epochs[-1]
        assert last[f"{split}/accuracy"] == pytest.approx(honest, abs=1.5 / len(labels))
        assert last[f"{split}/margin_accuracy"] == pytest.approx(margin, abs=1.5 / len(labels))
    assert len(recorder.epochs) == 3


def test_table_shows_mean_and_sample_deviation(reproduce: ModuleType) -> None:
    runs = [[dict.fromkeys(reproduce.MEASURES, value)] for value in (0.90, 0.92, 0.94)]
    _, _, row = reproduce.markdown(reproduce.summarise(runs)).splitlines()
    assert row == "| 1 | 91.75 | 91.59 |" + " 92.00 ± 2.00 |" * 4


@pytest.mark.slow
def test_reproduce_writes_table_numbers_and_plot(
    reproduce: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    flags = ["--seeds", "3", "4", "--max_epochs", "2", "--dataset", "digits", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["reproduce.py", *flags])
    monkeypatch.chdir(tmp_path)
    reproduce.main()
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"reproduction.{kind}" for kind in ("json", "md", "png")),
        ELSEWHERE,
    }
    record = json.loads((tmp_path / "reproduction.json").read_text())
    assert set(record["seeds"]) == {"3", "4"}
    assert all(len(epochs) == 2 and set(epochs[0]) == set(reproduce.MEASURES) for epochs in record["seeds"].values())
    assert (tmp_path / "reproduction.md").read_text() in capsys.readouterr().out
    with Image.open(tmp_path / "reproduction.png") as picture:
        assert min(picture.size) > 400


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_circle_draws_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dims: int) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data.dataset", "digits", "--max_epochs", "1", "--enable_progress_bar", "false"]
    load("circle").main(["--out", str(tmp_path), "--dims", str(dims), *flags])
    assert {path.name for path in tmp_path.iterdir()} == {f"embedding_{dims}d.png", ELSEWHERE}
    with Image.open(tmp_path / f"embedding_{dims}d.png") as picture:
        assert min(picture.size) > 400
