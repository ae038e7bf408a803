"""Every callback of Lightning through the command line: it trains to the closing table, or is refused with a reason."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch import callbacks as of_lightning
from tiny_runs import LIGHTNING_CALLBACKS, TINY_FIT, callback_flags

import arcface_pl
from arcface_pl.callbacks import RunCheckpoint
from arcface_pl.callbacks.run.refused import check_callbacks
from arcface_pl.checkpoints.reading import read_checkpoint
from arcface_pl.cli import main
from arcface_pl.errors import SettingsError
from arcface_pl.training.schedules import Schedule

REFUSED = {
    "BackboneFinetuning": "holds the class centers",
    "BaseFinetuning": "it is abstract",
    "BasePredictionWriter": "it is abstract",
    "BatchSizeFinder": "Set data.batch_size",
    "LearningRateFinder": "Set model.optimizer.lr",
    "ModelPruning": "torch.nn.utils.prune",
    "SpikeDetection": "cannot load its state",
}
"""Callbacks and a part of the reason."""
NEEDED = {"ModelPruning": ["--trainer.callbacks.pruning_fn=l1_unstructured"]}


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(words: list[str], capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *TINY_FIT, *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert not list(Path().iterdir())
    return error


def test_the_table_is_complete() -> None:
    assert {*LIGHTNING_CALLBACKS, *REFUSED} == {*of_lightning.__all__}
    text = (Path(arcface_pl.__file__).parent / "callbacks" / "README.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for name in of_lightning.__all__:
        assert any(f"`{name}`" in row for row in rows), name


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_any_work(name: str, capsys: pytest.CaptureFixture) -> None:
    error = refused([*callback_flags(name, {}), *NEEDED.get(name, [])], capsys)
    assert error.startswith(f"arcface-pl fit: error: trainer.callbacks: got '{name}'; expected another callback: ")
    assert REFUSED[name] in error


def test_what_an_exception_left_starts_no_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Lightning would resume a new run from the file that `OnExceptionCheckpoint` wrote in an earlier one."""
    left = tmp_path.parent / f"{tmp_path.name} before"
    left.mkdir()
    flags = callback_flags("OnExceptionCheckpoint", {"dirpath": str(left)})
    (left / "on_exception.ckpt").touch()
    error = refused(flags, capsys)
    assert error.startswith(
        f"arcface-pl fit: error: trainer.callbacks.dirpath of OnExceptionCheckpoint: got '{left}'; "
    )
    assert f"--ckpt_path {left}/on_exception.ckpt" in error


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LIGHTNING_CALLBACKS)
def test_trains_to_the_closing_table_and_resumes(name: str, capsys: pytest.CaptureFixture) -> None:
    bar = name.endswith("ProgressBar")
    main(
        ["fit", *TINY_FIT, "--enable_progress_bar", str(bar).lower(), *callback_flags(name, LIGHTNING_CALLBACKS[name])]
    )
    shown = capsys.readouterr()
    assert "accuracy with the margin left on" in shown.out
    assert "Traceback" not in shown.err
    main(["fit", "--ckpt_path", "last", "--max_epochs", "3", "--enable_progress_bar", "false"])
    assert "accuracy with the margin left on" in capsys.readouterr().out


def test_without_batch_norm_stochastic_weight_averaging_is_refused(capsys: pytest.CaptureFixture) -> None:
    added = callback_flags("StochasticWeightAveraging", {"swa_lrs": "0.01"})
    assert "after the last checkpoint" in refused(["--model.backbone", "SimpleCNN", *added], capsys)


@pytest.mark.parametrize(
    ("monitor", "meant"), [("val_loss", "val/loss"), ("val_acc", "val/accuracy"), ("accuracy", "val/accuracy")]
)
@pytest.mark.parametrize("name", ["EarlyStopping", "ModelCheckpoint", "RunCheckpoint"])
def test_a_misspelled_monitor(name: str, monitor: str, meant: str, capsys: pytest.CaptureFixture) -> None:
    error = refused([f"--trainer.callbacks+={name}", f"--trainer.callbacks.monitor={monitor}"], capsys)
    assert f"trainer.callbacks.monitor of {name}: got '{monitor}'" in error
    assert f"Did you mean {meant}?" in error


@pytest.mark.parametrize(
    ("name", "monitor", "better"),
    [
        ("EarlyStopping", "val/accuracy", "max"),
        ("ModelCheckpoint", "train/margin_accuracy", "max"),
        ("RunCheckpoint", "val/loss", "min"),
        ("RunCheckpoint", "val/angle/target_mean", "min"),
        ("EarlyStopping", "val/angle/nearest_other_mean", "max"),
    ],
)
def test_a_mode_that_takes_the_worst_score(name: str, monitor: str, better: str) -> None:
    """The default of each class, which nobody typed."""
    module = SimpleNamespace(scores={"val": SimpleNamespace(by_key=dict)})
    callback = RunCheckpoint if name == "RunCheckpoint" else getattr(of_lightning, name)
    with pytest.raises(SettingsError, match=f"trainer.callbacks.mode of {name}: got '.*'; expected {better}: "):
        check_callbacks(module, SimpleNamespace(callbacks=[callback(monitor=monitor)]))
    check_callbacks(module, SimpleNamespace(callbacks=[callback(monitor=monitor, mode=better)]))
    check_callbacks(module, SimpleNamespace(callbacks=[callback(monitor="val/of_a_subclass")]))


def test_a_batch_of_one_image_and_batch_norm(capsys: pytest.CaptureFixture) -> None:
    assert "data.batch_size: got 1; expected at least 2" in refused(["--data.batch_size", "1"], capsys)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_run_that_only_time_ends_follows_its_schedule(capsys: pytest.CaptureFixture) -> None:
    main(["fit", *TINY_FIT, "--enable_progress_bar", "false", "--max_epochs=-1", "--max_time", "00:00:00:04"])
    assert "accuracy with the margin left on" in capsys.readouterr().out
    (optimizer,) = read_checkpoint("lightning_logs/version_0/checkpoints/last.ckpt")["optimizer_states"]
    assert all(group["lr"] < 0.003 / 4 for group in optimizer["param_groups"])  # OneCycle has come down again


def test_a_run_without_end_needs_a_schedule_without_length(capsys: pytest.CaptureFixture) -> None:
    error = refused(["--max_epochs=-1"], capsys)
    assert "model.lr_schedule: got 'OneCycle'; expected Constant or null in a run of unknown length" in error


@pytest.mark.parametrize(("limit", "steps"), [([], 4 + 2 * 2 + 1), (["--max_steps", "7"], 7)])
def test_a_schedule_knows_the_steps_of_an_accumulation_that_changes(
    limit: list[str], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []
    monkeypatch.setattr(Schedule, "run_for", lambda schedule, total_steps: lengths.append(total_steps) or sys.exit(0))
    words = ["--limit_train_batches", "4", "--max_epochs", "4", *limit]
    with pytest.raises(SystemExit):
        main(
            [
                "fit",
                *TINY_FIT,
                *words,
                *callback_flags("GradientAccumulationScheduler", {"scheduling": "{0: 1, 1: 2, 3: 4}"}),
            ]
        )
    assert lengths == [steps]
