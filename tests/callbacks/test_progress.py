"""What a run prints: a line per epoch that stays, in a file too, and a bar on terminals only."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn
from tiny_runs import QUIET
from torch import nn

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule
from arcface_pl.callbacks import EpochLines, RunProgressBar, TrainingAccuracy


class Losses(L.Callback):
    """The loss of each step, as the module returned it."""

    def __init__(self) -> None:
        self.of_epoch: dict[int, list[float]] = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        scale = trainer.accumulate_grad_batches
        self.of_epoch.setdefault(trainer.current_epoch, []).append(outputs["loss"].item() * scale)


def fit(root: Path, *callbacks: L.Callback, checkpoint: Path | None = None, **arguments: Any) -> L.Trainer:
    L.seed_everything(1, verbose=False)
    module = ArcFaceModule(FastCNN(8, width=4), ArcFaceHead(8, 10, margin=0.1), lambda p: torch.optim.Adam(p, 1e-2))
    data = MNISTDataModule(dataset="digits", batch_size=250, eval_batch_size=500, augment=False)
    settings = {**QUIET, "max_epochs": 2, "default_root_dir": root, **arguments}
    trainer = L.Trainer(**settings, callbacks=list(callbacks))
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if re.match(r"\s*\d+(/\d+)?\s", line)]


def test_a_line_per_epoch_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    losses = Losses()
    trainer = fit(tmp_path, TrainingAccuracy(), EpochLines(), losses, accumulate_grad_batches=2)
    out = capsys.readouterr().out
    assert (tmp_path / "train.log").read_text() == out
    header, *lines = out.splitlines()
    assert header.split() == [
        "epoch",
        "loss",
        "train",
        "acc",
        "with",
        "margin",
        "val",
        "acc",
        "with",
        "margin",
        "seconds",
    ]
    assert len(lines) == 2
    assert {len(line) for line in (header, *lines)} == {len(header)}
    for number, row in enumerate(rows(out)):
        assert row[0] == f"{number + 1}/2"
        assert float(row[1]) == pytest.approx(sum(losses.of_epoch[number]) / len(losses.of_epoch[number]), abs=6e-5)
        assert all(re.fullmatch(r"\d+\.\d\d%", cell) for cell in row[2:6])
        assert float(row[6]) >= 0
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    names = ("train/accuracy", "train/margin_accuracy", "val/accuracy", "val/margin_accuracy")
    assert [f"{logged[name]:.2%}" for name in names] == rows(out)[-1][2:6]
    assert logged["train/epoch_loss"] == pytest.approx(float(rows(out)[-1][1]), abs=6e-5)


@pytest.mark.parametrize("epochs", [1, 99, 1000])
@pytest.mark.parametrize("split", ["val", "test"])
def test_lines_fit_80_columns(epochs: int, split: str, capsys: pytest.CaptureFixture) -> None:
    metrics = {
        f"{part}/{name}": torch.tensor(1.0) for part in ("train", split) for name in ("accuracy", "margin_accuracy")
    }
    lines = EpochLines()
    trainer = type("Trainer", (), {"progress_bar_callback": None})()
    cells = {"epoch": f"{epochs}/{epochs}", "loss": "12345.0000"}
    cells |= {f"{part} {name}": "100.00%" for part in ("train", split) for name in ("acc", "with margin")}
    lines._print(trainer, {**cells, "val_own_metric": "0.123", "another_of_theirs": "0.5", "seconds": "36000.0"})
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) < 80
    assert printed[1].split()[-1] == "36000.0"
    assert printed[1].count("100.00%") == len(metrics)


def test_a_score_is_shown_in_the_epoch_that_measured_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fit(tmp_path, EpochLines(), check_val_every_n_epoch=2, max_epochs=3)
    first, second, third = rows(capsys.readouterr().out)
    assert len(first) == 3
    assert all(cell.endswith("%") for cell in second[2:4])
    assert third[2:4] == ["-", "-"]
    assert (tmp_path / "train.log").read_text().count("val acc") == 1


def test_a_resumed_run_continues_its_lines(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fit(tmp_path / "whole", TrainingAccuracy(), EpochLines())
    whole = [row[:-1] for row in rows(capsys.readouterr().out)]

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 8:  # within the second epoch of six steps
                trainer.save_checkpoint(tmp_path / "half.ckpt")
                raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        fit(tmp_path / "cut", TrainingAccuracy(), EpochLines(), Stop())
    fit(tmp_path / "cut", TrainingAccuracy(), EpochLines(), checkpoint=tmp_path / "half.ckpt")
    assert [row[:-1] for row in rows(capsys.readouterr().out)] == whole


class Foreign(L.LightningModule):
    """A module of somebody else's, with metrics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        right = (self.layer(batch[0].flatten(1)).argmax(1) == batch[1]).float().mean()
        self.log("val_acc", right, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_module_of_somebody_elses_has_its_own_columns(make_trainer: Any, capsys: pytest.CaptureFixture) -> None:
    data = MNISTDataModule(dataset="digits", batch_size=250)
    with pytest.warns(UserWarning, match="Training accuracy is not measured"):
        make_trainer(max_epochs=1, callbacks=[TrainingAccuracy(), EpochLines()]).fit(Foreign(), datamodule=data)
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["epoch", "loss", "val_acc", "seconds"]
    assert re.fullmatch(r"\d+\.\d\d%", line.split()[2])


def test_a_reader_that_has_gone_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Gone())
        fit(tmp_path, EpochLines(), max_epochs=1)
    assert len(rows((tmp_path / "train.log").read_text())) == 1


def test_there_is_a_bar_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert not RunProgressBar().is_enabled
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert RunProgressBar().is_enabled
    assert not RunProgressBar(refresh_rate=0).is_enabled


def test_the_bar_of_a_short_epoch_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Watch(L.Callback):
        def __init__(self) -> None:
            self.shown: list[int] = []

        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            self.shown.append(trainer.progress_bar_callback.train_progress_bar.n)

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    bar, watch = RunProgressBar(), Watch()
    fit(tmp_path, bar, watch, enable_progress_bar=True, max_epochs=1)
    assert watch.shown == [1, 2, 3, 4, 5, 6]


def test_a_bar_of_many_steps_is_updated_as_seldom_as_asked(make_trainer: Any) -> None:
    trainer, bar = make_trainer(), RunProgressBar()
    assert bar.refresh_rate == 50
    bar.setup(trainer, L.LightningModule(), "fit")
    trainer.state.fn = TrainerFn.FITTING
    for steps, expected in ((5, 1), (100, 5), (844, 42), (5000, 50), (float("inf"), 50)):
        trainer.fit_loop.max_batches = steps
        assert bar.refresh_rate == expected


def test_the_bar_does_not_show_the_number_of_the_run(tmp_path: Path, make_trainer: Any, tiny_module: Any) -> None:
    trainer, module = make_trainer(logger=CSVLogger(tmp_path, version=3)), tiny_module()
    assert TQDMProgressBar().get_metrics(trainer, module)["v_num"] == 3  # Lightning's own
    assert "v_num" not in RunProgressBar().get_metrics(trainer, module)
