"""The four commands on one small run: what each leaves where, and what is refused before anything is left."""

import csv
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
from tiny_runs import NO_FIGURES

from arcface_pl import MNISTDataModule
from arcface_pl.cli.profile_reports import MOST_LINES
from arcface_pl.cli.run import run
from arcface_pl.errors import SettingsError

SMALL = ["--data.dataset", "digits", "--model.backbone", "FastCNN", "--model.backbone.width", "4"]
QUIET = ["--enable_progress_bar", "false", "--accelerator", "cpu", "--devices", "1"]


class Fails(L.Callback):
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        raise KeyError("not about a setting")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run of one epoch."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("run")
        patch.chdir(root)
        run("fit", [*SMALL, *QUIET, *NO_FIGURES, "--max_epochs", "1"])
        yield root / "lightning_logs" / "version_0"


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_profiler_reports_in_the_runs_folder_and_on_the_terminal(
    trained: Path, in_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    for command in ("validate", "test", "predict"):
        report = trained / "profile.txt"
        report.unlink(missing_ok=True)
        capsys.readouterr()
        run(command, ["--ckpt_path", str(trained / "checkpoints" / "last.ckpt"), *QUIET, "--profiler", "simple"])
        lines, told = report.read_text().rstrip().splitlines(), capsys.readouterr().err.splitlines()
        assert lines[0] == f"{command.upper()} Profiler Report"
        assert any("[LightningModule]ArcFaceModule" in line for line in lines)
        assert told[: MOST_LINES + 1] == [*lines[:MOST_LINES], f"... {len(lines) - MOST_LINES} more lines in {report}"]
        report.unlink()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore:The PyTorch Profiler default schedule will be overridden")  # too few steps
@pytest.mark.parametrize("profiler", ["simple", "advanced", "pytorch"])
def test_a_fit_reports_training_and_test(profiler: str, in_folder: Path, capsys: pytest.CaptureFixture) -> None:
    few = ["--limit_train_batches", "2", "--limit_val_batches", "1", "--limit_test_batches", "1", "--max_epochs", "1"]
    run("fit", [*SMALL, *QUIET, *few, "--profiler", profiler, "--logger", "CSVLogger"])
    text, told = Path("lightning_logs/version_0/profile.txt").read_text(), capsys.readouterr().err
    for stage in ("FIT", "TEST"):
        assert f"{stage} Profiler Report" in text
        assert f"{stage} Profiler Report" in told
    assert len(told.splitlines()) < 120


def test_predictions_are_a_row_per_test_image_in_order(trained: Path, in_folder: Path) -> None:
    run("predict", ["--ckpt_path", str(trained / "checkpoints" / "last.ckpt"), *QUIET])
    with (trained / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    data = MNISTDataModule(dataset="digits")
    data.prepare_data()
    data.setup("test")
    labels = torch.cat([labels for _, labels in data.test_dataloader()])
    assert [int(row["index"]) for row in rows] == list(range(len(labels)))
    assert [int(row["label"]) for row in rows] == labels.tolist()
    for row in rows:
        assert math.cos(math.radians(float(row["angle_degrees"]))) == pytest.approx(float(row["cosine"]), abs=1e-5)
    right = sum(row["label"] == row["prediction"] for row in rows)
    results = json.loads((trained / "results.json").read_text())
    assert round(results["test/accuracy"] * len(rows)) == right  # of one epoch, last is best


def test_a_copied_checkpoint_has_its_results_next_to_it_and_replaces_none(trained: Path, in_folder: Path) -> None:
    copy = in_folder / "checkpoints" / "copy.ckpt"
    copy.parent.mkdir()
    shutil.copy(trained / "checkpoints" / "best.ckpt", copy)
    before = {path.name for path in trained.iterdir()}
    for _ in range(2):
        run("test", ["--ckpt_path", str(copy), *QUIET])
    first, second = (json.loads((copy.parent / f"{name}.json").read_text()) for name in ("test", "test-1"))
    assert first == second
    results = json.loads((trained / "results.json").read_text())
    assert {key: first[key] for key in results if key.startswith("test/")} == {
        key: value for key, value in results.items() if key.startswith("test/")
    }
    assert {path.name for path in trained.iterdir()} == before
    assert [path.name for path in in_folder.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("predict", ["--limit_predict_batches", "0"], "trainer.limit_predict_batches: got 0"),
        ("test", ["--limit_test_batches", "0"], "trainer.limit_test_batches: got 0; expected images to test on"),
        ("validate", ["--data.val_fraction", "0"], "data.val_fraction: got 0; expected images to validate on"),
    ],
)
def test_an_evaluation_of_nothing_is_named(
    trained: Path, in_folder: Path, command: str, flags: list[str], message: str
) -> None:
    before = {path.name for path in trained.iterdir()}
    checkpoint = ["--ckpt_path", str(trained / "checkpoints" / "best.ckpt")]
    with pytest.raises(SettingsError, match=message):
        run(command, [*checkpoint, *flags, *QUIET])
    assert {path.name for path in trained.iterdir()} == before
    assert list(in_folder.iterdir()) == []


def test_a_run_that_does_not_begin_leaves_no_folder_and_passes_on_what_is_no_setting(in_folder: Path) -> None:
    fails = f"[{{class_path: {__name__}.Fails}}]"
    with pytest.raises(KeyError, match="not about a setting"):
        run("fit", [*SMALL, *QUIET, "--max_epochs", "1", "--trainer.callbacks", fails])
    assert list(in_folder.iterdir()) == []
