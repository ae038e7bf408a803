"""Names with control characters in what is written, printed and drawn: each place shows escapes."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from tiny_runs import QUIET, fit_digits

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, Recognizer
from arcface_pl.callbacks import EpochLines
from arcface_pl.callbacks.run.run_metrics import FILE, RunMetrics
from arcface_pl.callbacks.tensorboard.writer import class_names_of
from arcface_pl.cli import predict, recognize
from arcface_pl.demo.replies import Demo
from arcface_pl.figures.style import shorten
from arcface_pl.preprocessing import Preprocessor
from arcface_pl.recognizer import TrainedModel
from arcface_pl.recognizer.embedding_files import SUFFIXES, EmbeddingTable, to_file
from arcface_pl.recognizer.exporters import make
from arcface_pl.recognizer.model_card import model_card

NAME = "=\x1b[1m\u202e\n\t\udcff|<b>:cat:"
"""A formula, a color, right-to-left text, a line break, a tab, a byte that is no text, markup, an emoji's code."""
NAMES = [NAME, "b", "c", "d"]
Capture = pytest.CaptureFixture


class Logs(L.Callback):
    """Logs a metric with a hostile name."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log("v\x1b\u202e", 0.5, prog_bar=True)


@pytest.fixture
def model() -> TrainedModel:
    torch.manual_seed(0)
    preprocessor = Preprocessor(image_size=28, in_channels=1, mean=(0.0,), std=(1.0,))
    return TrainedModel(FastCNN(8, width=4), ArcFaceHead(8, 4), preprocessor, NAMES, NAME)


def epoch_lines(tmp_path: Path, capsys: Capture) -> str:
    capsys.readouterr()
    fit_digits([Logs(), EpochLines()])
    return capsys.readouterr().out


def metrics_csv(tmp_path: Path, capsys: Capture) -> str:
    for _ in range(2):  # a resumed run finds its own column
        metrics = RunMetrics()
        metrics.begin(tmp_path)
        metrics.log_metrics({NAME: 1.0}, step=len(metrics.rows))
        metrics.finalize("success")
    header, *rows = (tmp_path / FILE).read_text(encoding="utf-8").splitlines()
    assert len(header.split(",")) == 3
    assert header.split(",")[2].startswith("'=")
    return header + "".join(rows)


def initial_weights(tmp_path: Path, capsys: Capture) -> str:
    path = tmp_path / "w\x1b\n\u202e.pt"
    network = FastCNN(8, width=4)
    torch.save(network.state_dict() | {NAME: torch.zeros(1)}, path)
    module = ArcFaceModule(network, ArcFaceHead(8, 4), init_from=str(path))
    module.trainer = L.Trainer(**QUIET)
    capsys.readouterr()
    module.on_fit_start()
    return capsys.readouterr().out


def predictions(tmp_path: Path, capsys: Capture) -> str:
    rows = [{"file": NAME, "label": NAME, "cosine": 0.5, "angle_degrees": 60.0, "unknown": False}]
    predict._print_table([*rows, {"file": NAME, "error": NAME}])
    predict._print_csv(rows)
    recognize._print([{"name": NAME}], [{"file": NAME, "error": NAME}])
    found = capsys.readouterr()
    return found.out + found.err


def tensorboard_names(tmp_path: Path, capsys: Capture) -> str:
    return class_names_of(SimpleNamespace(datamodule=SimpleNamespace(class_names=NAMES)), 4)[0]  # type: ignore[arg-type]


def figure_labels(tmp_path: Path, capsys: Capture) -> str:
    return shorten(NAME, length=99)


@pytest.mark.parametrize(
    "place", [epoch_lines, metrics_csv, initial_weights, predictions, tensorboard_names, figure_labels]
)
def test_control_characters_are_escaped(
    place: Callable[[Path, Capture], str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    text = place(tmp_path, capsys)
    assert text.replace("\n", "").isprintable()
    assert "\\u202e" in text
    assert "\N{CAT FACE}" not in text


def test_the_model_card_shows_names_as_text(model: TrainedModel) -> None:
    card = model_card(model)
    assert card.replace("\n", "").isprintable()
    assert card.count("\\u202e\\n\\t\\udcff\\|\\<b\\>".replace("\\u", "\\\\u").replace("\\n\\t", "\\\\n\\\\t")) == 2


def test_the_page_shows_escapes_and_removes_by_them(model: TrainedModel) -> None:
    demo = Demo(Recognizer(model))
    pixels = torch.randint(0, 256, (1, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    demo.recognizer.enroll(NAME, pixels, framed=True)
    about: Any = demo.about()
    shown = [about["dataset"], about["classes"][0]["label"], about["enrolled"][0]["label"]]
    assert all(each.isprintable() for each in shown)
    assert demo.remove(shown[2])["enrolled"] == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_embeddings_keep_the_name(suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    table = EmbeddingTable(np.eye(2, dtype=np.float32), np.array([0, 1]), NAMES, [NAME, ""], np.arange(2))
    content = to_file(table, suffix)
    if suffix == ".npz":
        with np.load(io.BytesIO(content)) as file:
            assert file["classes"].tolist() == [NAME, "b"]
    if suffix == ".safetensors":
        (size,) = struct.unpack("<Q", content[:8])
        assert json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["class_names"]) == NAMES


def test_saved_and_exported_models_keep_the_name(model: TrainedModel, tmp_path: Path) -> None:
    recognizer = Recognizer(model)
    recognizer.save_pretrained(tmp_path / "model")
    assert Recognizer.from_pretrained(tmp_path / "model").class_names == NAMES
    content, _ = make(model, "safetensors", torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
    (size,) = struct.unpack("<Q", content[:8])
    assert json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["class_names"]) == NAMES
