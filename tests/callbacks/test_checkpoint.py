"""`RunCheckpoint`: which validation becomes the best checkpoint, and that it can be resumed exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule
from arcface_pl.callbacks import RunCheckpoint
from arcface_pl.callbacks.run import signals

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
