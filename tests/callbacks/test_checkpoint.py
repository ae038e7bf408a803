"""`RunCheckpoint`: which validation becomes the best checkpoint, and that it can be resumed exactly."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule
from arcface_pl.callbacks import RunCheckpoint, RunLogger
from arcface_pl.callbacks.run import checkpoint, signals
from arcface_pl.callbacks.run.checkpoint_io import DurableCheckpoints
from arcface_pl.callbacks.run.run_folder import RunFolder, run_folder
from arcface_pl.checkpoints.atomic import PARTIAL
from arcface_pl.checkpoints.plugin import DurableCheckpointIO

Make = Callable[..., Any]


class Graded(ArcFaceModule):
    """Logs the accuracies that it is given, one per validation."""

    def __init__(self, grades: list[float]) -> None:
        torch.manual_seed(0)
        super().__init__(FastCNN(16, width=4), ArcFaceHead(16, 10))
        self.grades = list(grades)

    def on_validation_epoch_end(self) -> None:
        self.log("val/accuracy", self.grades.pop(0))


class Weights(L.Callback):
    def __init__(self) -> None:
        self.after: dict[int, Any] = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.after[trainer.global_step] = pl_module.head.weight.detach().clone()


def best(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("settings", "grades", "step", "score"),
    [
        ({"max_epochs": 3}, [0.1, 0.3, 0.2], 8, 0.3),
        ({"max_epochs": 3}, [0.1, 0.3, 0.3], 12, 0.3),  # of equals the later
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, [0.3], 8, 0.3),  # the third epoch was not validated
        ({"max_epochs": 2, "val_check_interval": 2}, [0.1, 0.2, 0.4, 0.3], 6, 0.4),  # within the second epoch
        ({"max_epochs": 2, "val_check_interval": 2}, [0.1, 0.2, 0.3, 0.4], 8, 0.4),
        ({"max_epochs": 3}, [math.nan, 0.1, math.nan], 8, 0.1),  # nothing compares with NaN
    ],
)
def test_the_best_checkpoint_has_the_weights_that_were_validated(
    make_trainer: Make, tiny_loader: Make, tmp_path: Path, settings: dict, grades: list[float], step: int, score: float
) -> None:
    weights, policy = Weights(), RunCheckpoint()
    trainer = make_trainer(callbacks=[weights, policy], enable_checkpointing=True, **settings)
    trainer.fit(Graded(grades), tiny_loader(), tiny_loader())
    content = best(tmp_path)
    assert content["global_step"] == step
    assert torch.equal(content["state_dict"]["head.weight"], weights.after[step])
    assert policy.best_score == pytest.approx(score)
    assert policy.best_model_path == str(policy.path) == str(tmp_path / "checkpoints" / "best.ckpt")


def test_a_best_checkpoint_within_an_epoch_is_resumed_exactly(make_trainer: Make, tmp_path: Path) -> None:
    def digits() -> MNISTDataModule:
        return MNISTDataModule(dataset="digits", batch_size=360, augment=False)  # four batches

    settings = {"max_epochs": 2, "val_check_interval": 2, "enable_checkpointing": True}
    whole, rest = Weights(), Weights()
    grades = [0.4, 0.1, 0.2, 0.3]
    make_trainer(callbacks=[whole, RunCheckpoint()], **settings).fit(Graded(grades), datamodule=digits())
    path = tmp_path / "checkpoints" / "best.ckpt"
    assert best(tmp_path)["global_step"] == 2
    trainer = make_trainer(callbacks=[rest, RunCheckpoint()], **settings)
    module = Graded(grades[1:])
    trainer.fit(module, datamodule=digits(), ckpt_path=path, weights_only=True)
    assert module.grades == []
    assert list(rest.after) == [3, 4, 5, 6, 7, 8]
    assert all(torch.equal(weight, whole.after[step]) for step, weight in rest.after.items())


class Clock(L.Callback):
    """A minute passes in each step; notes after which steps last.ckpt was written."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.path, self.saved = 1e6, folder / "checkpoints" / "last.ckpt", []
        monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: self.now))

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.note()
        self.now += 60

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.note()

    def note(self) -> None:
        step = torch.load(self.path, weights_only=True)["global_step"] if self.path.exists() else 0
        self.saved += [step] if step and step not in self.saved else []


@pytest.mark.parametrize(
    ("minutes", "steps"),
    # Two epochs of four steps; within an epoch, at most every second step writes
    [(None, [4, 8]), (10.0, [4, 8]), (3.0, [3, 4, 7, 8]), (2.0, [2, 4, 6, 8]), (0.5, [1, 3, 4, 6, 8])],
)
def test_the_last_checkpoint_is_as_old_as_the_clock_allows(
    make_trainer: Make,
    tiny_loader: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    minutes: float | None,
    steps: list[int],
) -> None:
    clock = Clock(tmp_path, monkeypatch)
    trainer = make_trainer(
        callbacks=[RunCheckpoint(every_n_minutes=minutes), clock], enable_checkpointing=True, max_epochs=2
    )
    trainer.fit(Graded([]), tiny_loader())
    assert clock.saved == steps


@pytest.mark.parametrize(("grades", "same"), [([0.2, 0.3], True), ([0.4, 0.3], False)])
def test_a_last_checkpoint_that_is_the_best_is_written_once(
    make_trainer: Make, tiny_loader: Make, tmp_path: Path, grades: list[float], same: bool
) -> None:
    callbacks = [RunCheckpoint(), DurableCheckpoints()]
    trainer = make_trainer(callbacks=callbacks, enable_checkpointing=True, max_epochs=2)
    trainer.fit(Graded(grades), tiny_loader(), tiny_loader())
    last, best = (tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    assert last.samefile(best) == same


def test_a_resumed_run_removes_what_a_killed_one_left_half_written(
    make_trainer: Make, tiny_loader: Make, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"plugins": [DurableCheckpointIO()], "enable_checkpointing": True}
    make_trainer(callbacks=[RunCheckpoint()], max_epochs=1, **settings).fit(Graded([]), tiny_loader())
    folder = tmp_path / "checkpoints"
    before = {*folder.iterdir()}
    partial = folder / f".last.ckpt.1{PARTIAL}"
    partial.write_bytes(b"half")
    trainer = make_trainer(callbacks=[RunCheckpoint()], max_epochs=2, **settings)
    trainer.fit(Graded([]), tiny_loader(), ckpt_path=folder / "last.ckpt", weights_only=True)
    assert not partial.exists()
    assert before <= {*folder.iterdir()}


def test_a_run_that_ended_before_its_first_step_leaves_no_folder(make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer(
        logger=RunLogger(str(tmp_path / "runs")), callbacks=[RunCheckpoint()], enable_checkpointing=True
    )
    folder = run_folder(trainer)
    (folder / "checkpoints").mkdir()
    assert folder.parts[len(tmp_path.parts)] == "runs"
    RunFolder.of(trainer).release()
    assert not folder.exists()


class Signalled(L.Callback):
    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            signals.signal.raise_signal(signals.signal.SIGUSR1)


def test_a_signal_stops_after_the_present_step_with_that_step_saved(
    make_trainer: Make, tiny_loader: Make, tmp_path: Path
) -> None:
    def mine(*_: Any) -> None:
        """Somebody's own handler, which training replaces and puts back."""

    before = signals.signal.signal(signals.signal.SIGUSR1, mine)
    try:
        trainer = make_trainer(callbacks=[Signalled(), RunCheckpoint()], enable_checkpointing=True, max_epochs=1)
        with pytest.raises(signals.Stopped) as stopped:
            trainer.fit(Graded([0.1]), tiny_loader(), tiny_loader())
        assert signals.signal.getsignal(signals.signal.SIGUSR1) is mine
    finally:
        signals.signal.signal(signals.signal.SIGUSR1, before)
    assert stopped.value.code == 128 + signals.signal.SIGUSR1
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == trainer.global_step == 2


def test_nothing_is_saved_of_a_path_before_the_run() -> None:
    assert RunCheckpoint().best_model_path == ""
    with pytest.raises(RuntimeError, match="expected it after"):
        _ = RunCheckpoint().path


def test_signals_that_were_ignored_stay_ignored() -> None:
    before = signals.signal.signal(signals.signal.SIGHUP, signals.signal.SIG_IGN)  # as nohup does
    try:
        request = signals.StopRequest()
        request.listen()
        assert signals.signal.getsignal(signals.signal.SIGHUP) is signals.signal.SIG_IGN
        signals.signal.raise_signal(signals.signal.SIGUSR1)
        assert request.signum == signals.signal.SIGUSR1
        with pytest.raises(signals.Stopped, match=str(128 + signals.signal.SIGXCPU)):
            signals.signal.raise_signal(signals.signal.SIGXCPU)
        request.release()
        assert signals.signal.getsignal(signals.signal.SIGUSR1) is signals.signal.SIG_DFL
    finally:
        signals.signal.signal(signals.signal.SIGHUP, before)
