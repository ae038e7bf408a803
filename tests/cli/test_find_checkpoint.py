"""`last`, `best` and `last-good` mean the newest run, by what runs record; the choice is printed."""

import os
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from tiny_runs import QUIET

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule
from arcface_pl.callbacks import RunCheckpoint, RunLogger
from arcface_pl.checkpoints.atomic import write_checkpoint
from arcface_pl.checkpoints.find_checkpoint import age, find_checkpoint
from arcface_pl.checkpoints.runs import ELSEWHERE, MARK, known_runs, owner_of
from arcface_pl.errors import SettingsError


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_run(folder: str, started: float, *names: str) -> Path:
    """Write what a run leaves, and return the folder; its files are older than those of runs made before it."""
    place = Path(folder)
    for name in names:
        write_checkpoint({"state_dict": {}, "hyper_parameters": {}}, place / f"checkpoints/{name}.ckpt")
        os.utime(place / f"checkpoints/{name}.ckpt", (1e9 - started, 1e9 - started))
    place.mkdir(parents=True, exist_ok=True)
    (place / MARK).write_text(f"run {folder}\n{started}\n")
    return place


@pytest.mark.parametrize("folder", ["lightning_logs/version_1", "mine/version_0", "exp", "."])
def test_the_run_that_was_started_last_is_meant_wherever_it_lies(folder: str, capsys: pytest.CaptureFixture) -> None:
    make_run("lightning_logs/version_0", 1.0, "last", "best")
    newest = make_run(folder, 2.0, "last", "best")
    for name in ("last", "best"):
        assert find_checkpoint(name).path == newest / f"checkpoints/{name}.ckpt"
        assert f"{name}: {newest / 'checkpoints' / name}.ckpt (" in capsys.readouterr().err
    find_checkpoint("last", announces=False)
    assert not capsys.readouterr().err


def test_a_run_without_checkpoints_is_passed_over() -> None:
    older = make_run("lightning_logs/version_0", 1.0, "last")
    make_run("lightning_logs/version_1", 2.0)
    assert find_checkpoint("last").path.parent.parent == older


def test_the_best_of_an_older_run_is_not_taken() -> None:
    make_run("lightning_logs/version_0", 1.0, "last", "best")
    make_run("lightning_logs/version_1", 2.0, "last")
    with pytest.raises(SettingsError, match=r"version_1, has last\.ckpt, but no best\.ckpt"):
        find_checkpoint("best")


def test_several_that_could_be_meant_are_listed() -> None:
    folder = make_run("lightning_logs/version_0", 1.0, "last")
    shutil.copytree(folder, "kept/copy")
    with pytest.raises(SettingsError, match=r"several runs are the newest.*version_0.*kept.copy|kept.copy.*version_0"):
        find_checkpoint("last")


def test_a_folder_without_mark_counts_by_its_newest_file() -> None:
    make_run("lightning_logs/version_0", 1.0, "last")
    make_run("lightning_logs/version_1", 2.0, "last")
    (Path("lightning_logs/version_1") / MARK).unlink()
    assert find_checkpoint("last").path.parent.parent.name == "version_1"
    assert [run.run_id for run in known_runs(Path()) if run.folder.name == "version_1"] == [""]


def fit(**arguments: Any) -> Path:
    L.seed_everything(0, verbose=False)
    keeper = RunCheckpoint()
    limits = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1}
    own = {"callbacks": [keeper], "enable_checkpointing": True, "logger": None, **arguments}
    trainer = L.Trainer(**{**QUIET, **limits, **own})
    trainer.fit(ArcFaceModule(FastCNN(8, width=4), ArcFaceHead(8, 10)), datamodule=MNISTDataModule(dataset="digits"))
    return keeper.path


def test_runs_elsewhere_are_found_from_where_they_were_started(tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    fit(logger=RunLogger())
    assert not Path(ELSEWHERE).exists()
    for arguments in (
        {"logger": False, "default_root_dir": other / "root"},
        {"logger": RunLogger(str(other / "dir"), name="deeper/name")},
        {"logger": RunLogger("a/b/c", name="name")},
    ):
        path = fit(**arguments)
        assert find_checkpoint("last").path.resolve() == path.parent.joinpath("last.ckpt").resolve()
    assert len(Path(ELSEWHERE).read_text().splitlines()) == 3
    assert owner_of(other / "root")
    newest = fit(logger=RunLogger())
    assert find_checkpoint("last").path.resolve() == newest.parent.joinpath("last.ckpt").resolve()
    assert find_checkpoint("last", root=str(other / "root")).path.parent.parent == other / "root"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 seconds"), (1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (7200, "2 hours")]
)
def test_age(seconds: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").touch()
    os.utime(tmp_path / "x", (1000, 1000))
    monkeypatch.setattr("time.time", lambda: 1000.0 + seconds)
    assert age(tmp_path / "x") == text
