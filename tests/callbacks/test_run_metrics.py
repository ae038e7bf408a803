"""metrics.csv and curves.png of every run; figures and settings in every logger that can show them."""

import csv
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from lightning.pytorch.loggers import Logger
from PIL import Image

from arcface_pl.callbacks.run.run_metrics import RunMetrics
from arcface_pl.cli import main
from arcface_pl.cli.saved_config import flat

FIT = [
    "fit", "--data.dataset", "digits", "--max_epochs", "1", "--limit_train_batches", "3", "--limit_val_batches", "1",
    "--limit_test_batches", "1", "--log_every_n_steps", "1", "--model.backbone", "FastCNN",
    "--model.backbone.width", "4", "--model.head.margin", "0.25", "--seed_everything", "7",
]  # fmt: skip
RUN = Path("lightning_logs/version_0")


class Stub(Logger):
    """Takes pictures as WandbLogger does, and remembers all it is given."""

    made: ClassVar[list[Any]] = []
    name, version = "project", "3kdj2l"

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {}
        self.seeds: set[Any] = set()
        self.metrics: set[str] = set()
        self.pictures: dict[str, Any] = {}
        self.before_results: set[str] = set()
        self.made.append(self)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self.settings |= dict(params)
        self.seeds |= {value for name, value in params.items() if name == "seed"}

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.metrics |= set(metrics)

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.pictures[key] = images[0]
        if not (RUN / "results.json").exists():
            self.before_results.add(key)


class Interrupted(Stub):
    """Is interrupted over the first figure of an evaluation."""

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        if not key.endswith("confusion_matrix"):
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def nothing_made(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stub, "made", [])


def rows() -> list[dict[str, str]]:
    with (RUN / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_any_logger_gets_figures_and_settings(capsys: pytest.CaptureFixture) -> None:
    main([*FIT, "--logger", f"[{__name__}.Stub, RunLogger]"])
    (stub,) = Stub.made
    assert {"lr", "margin", "head", "seed"} <= set(stub.settings)
    assert (stub.settings["margin"], stub.settings["head"], stub.settings["seed"]) == (0.25, "ArcFaceHead", 7)
    assert stub.settings["model.head.margin"] == 0.25
    assert (stub.settings["batch_size"], stub.settings["rotation"]) == (64, 10.0)  # the data module's
    assert stub.seeds == {7}  # MLflow keeps the first
    assert {"val/best/accuracy", "val/best/loss"} <= stub.metrics
    assert not any("best" in name for name in rows()[0])
    assert {"val/confusion_matrix", "test/confusion_matrix", "test/roc"} <= set(stub.pictures)
    assert all(picture.ndim == 3 and picture.shape[2] == 3 for picture in stub.pictures.values())
    assert {"val/roc", "val/angle/over_training"} <= set(stub.pictures)
    assert stub.before_results == {"val/confusion_matrix"}  # of an epoch; the rest waits for the results
    assert {"train/loss", "val/accuracy", "test/accuracy"} <= stub.metrics
    assert [row["step"] for row in rows()][-1] == "3"
    printed = capsys.readouterr().out
    assert " --logdir lightning_logs" in printed  # of tensorboard, which may not be on the path
    assert "curves       lightning_logs/version_0/curves.png" in printed


def test_a_run_that_is_interrupted_while_it_draws_has_its_results(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*FIT, "--logger", f"{__name__}.Interrupted"])
    assert ended.value.code == 130
    results = json.loads((RUN / "results.json").read_text())
    printed = capsys.readouterr().out
    assert f"{results['test/accuracy']:.2%}" in printed
    assert "lightning_logs/version_0/results.json" in printed
    assert results["checkpoint"].endswith("best.ckpt")
    assert Path(results["checkpoint"]).is_file()
    assert [row["test/accuracy"] for row in rows()][-1] != ""
    assert "curves" not in printed  # it lists what is there


def test_without_any_logger(capsys: pytest.CaptureFixture) -> None:
    main([*FIT, "--logger", "false", "--trainer.callbacks", "null", "--trainer.callbacks+=RunCheckpoint"])
    found = rows()
    assert [row["train/loss"] != "" for row in found[:3]] == [True] * 3
    assert float(found[-1]["test/accuracy"]) >= 0
    assert any(row["val/accuracy"] for row in found)
    with Image.open(RUN / "curves.png") as picture:
        assert picture.size[0] > 500
    assert "tensorboard" not in capsys.readouterr().out


def test_a_resumed_run_has_the_rows_of_the_uninterrupted_one() -> None:
    quick = [*FIT, "--logger", "false", "--model.lr_schedule", "null", "--trainer.callbacks", "null"]
    main([*quick, "--trainer.callbacks+=RunCheckpoint", "--max_epochs", "2", "--default_root_dir", "whole"])
    main([*quick, "--trainer.callbacks+=RunCheckpoint"])
    main(["fit", "--ckpt_path", "last", "--max_epochs", "2"])

    def logged(path: Path) -> list[dict[str, str]]:
        with (path / "metrics.csv").open(newline="") as file:
            kept = [{key: text for key, text in row.items() if "test" not in key} for row in csv.DictReader(file)]
        return [row for row in kept if row["train/loss"] or row["val/loss"]]

    assert logged(RUN) == logged(Path("whole") / RUN)
    steps = [float(row["step"]) for row in logged(RUN)]
    assert steps == sorted(set(steps))


def test_rows_are_merged_by_step_and_replaced_on_resume(tmp_path: Path) -> None:
    metrics = RunMetrics()
    metrics.begin(tmp_path)
    for step in range(4):
        metrics.log_metrics({"train/loss": 1.0 / (step + 1)}, step)
    metrics.log_metrics({"val/loss": 0.5, "epoch": 0}, 3)
    metrics.finalize("success")
    assert not (tmp_path / "curves.png").exists()
    again = RunMetrics()
    again.begin(tmp_path)
    assert again.rows == metrics.rows
    again.log_metrics({"train/loss": 9.0}, 2)
    again.finalize("failed")
    assert [row["step"] for row in again.rows] == [0, 1, 2]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[-1] == ",2,9.0"
    assert (tmp_path / "curves.png").is_file()


def test_a_curves_file_of_the_user_stays(tmp_path: Path) -> None:
    (tmp_path / "curves.png").write_bytes(b"mine")
    metrics = RunMetrics()
    metrics.begin(tmp_path)
    metrics.log_metrics({"train/loss": 1.0}, 0)
    assert metrics.draw() == tmp_path / "curves-1.png"
    assert (tmp_path / "curves.png").read_bytes() == b"mine"


def test_flat() -> None:
    settings = {"seed": 1, "model": {"head": {"class_path": "a.B", "init_args": {"margin": 0.5}}, "x": [1, 2]},
                "trainer": {"callbacks": [{"class_path": "c.D", "init_args": {"e": 2}}]}}  # fmt: skip
    assert flat(settings) == {
        "seed": 1, "model.head": "a.B", "model.head.margin": 0.5, "model.x": [1, 2],
        "trainer.callbacks.D": "c.D", "trainer.callbacks.D.e": 2,
    }  # fmt: skip


class ServerError(Exception):
    pass


class TakesConfig(Stub):
    """With an argument of WandbLogger's, which the command line must not take for its own."""

    def __init__(self, config: dict[str, Any] | None = None, fails: bool = False) -> None:
        super().__init__()
        if fails:
            raise ServerError("no server\nthere")


def test_a_logger_may_have_an_argument_called_config() -> None:
    main([*FIT, "--fast_dev_run", "true", "--logger", f"{__name__}.TakesConfig", "--trainer.logger.config.a", "1"])
    assert Stub.made


def test_a_logger_that_cannot_be_made_is_named_with_the_reason(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*FIT, "--logger", f"{__name__}.TakesConfig", "--trainer.logger.fails", "true"])
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert "trainer.logger: got 'TakesConfig'; expected a logger that can be made here. no server there" in said
    assert not Path("lightning_logs").exists()


def wandb_records(data: bytes) -> Iterator[bytes]:
    """Records of wandb's file, a LevelDB log: seven bytes, then 32 KiB blocks of pieces with checksum, size, kind."""
    place, record = 7, b""
    while place + 7 <= len(data):
        if (left := 32_768 - place % 32_768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, last
            yield record
            record = b""


def wandb_stored(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and last values that wandb would send."""
    from wandb.proto import wandb_internal_pb2

    settings: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    for data in wandb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        settings |= {each.key: json.loads(each.value_json) for each in record.config.update}
        scores |= {each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in record.summary.update}
    return settings, scores


def assert_stored(settings: dict[str, Any], scores: dict[str, float], plain: Callable[[Any], Any]) -> None:
    """A logger holds the settings of config.yaml and the scores of results.json."""
    config = flat(yaml.safe_load((RUN / "config.yaml").read_text()))
    assert {name: plain(settings[name]) for name in config} == {name: plain(each) for name, each in config.items()}
    short = {"lr": config["model.optimizer.lr"], "margin": 0.25, "head": "ArcFaceHead", "seed": 7, "batch_size": 64}
    assert {name: plain(settings[name]) for name in short} == {name: plain(each) for name, each in short.items()}
    results = json.loads((RUN / "results.json").read_text())
    closing = {name: each for name, each in results.items() if "/" in name and "/num_" not in name}
    assert len(closing) == 10
    for name, value in closing.items():
        assert scores[name.replace("val/", "val/best/")] == pytest.approx(value, rel=1e-6), name  # seven digits


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wandb_offline(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for _ in range(2):
        main([*FIT, "--logger", "WandbLogger", "--trainer.logger.offline", "true"])
        wandb.finish()
    printed = capsys.readouterr().out
    assert "wandb sync" in printed
    assert "tensorboard --logdir" not in printed
    assert sorted(path.name for path in Path("lightning_logs").iterdir()) == ["version_0", "version_1"]
    assert len(list(Path().glob("**/offline-run-*/*.wandb"))) == 2
    pictures = [path.name for path in Path().glob("**/offline-run-*/files/media/images/**/*.png")]
    assert any("confusion_matrix" in name for name in pictures)
    (file,) = next(Path().glob("**/offline-run-*")).glob("*.wandb")
    assert_stored(*wandb_stored(file), lambda value: list(value) if isinstance(value, tuple) else value)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mlflow(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    main([*FIT, "--logger", "MLFlowLogger", "--trainer.logger.tracking_uri", uri])
    assert f"mlflow ui --backend-store-uri {uri}" in capsys.readouterr().out.replace("\n", "")
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert [each.path for each in client.list_artifacts(run.info.run_id, "test")]
    assert_stored(run.data.params, run.data.metrics, lambda value: str(value).replace("(", "[").replace(")", "]"))
