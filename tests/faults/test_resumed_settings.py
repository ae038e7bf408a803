"""Settings that a checkpoint fixes are refused with both values; config.yaml never says what was not done."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from tiny_runs import QUIET

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule
from arcface_pl.checkpoints.reading import read_checkpoint
from arcface_pl.cli import main

FIT = [
    "fit", "--data.dataset", "digits", "--max_epochs", "1", "--limit_train_batches", "2", "--limit_val_batches", "1",
    "--limit_test_batches", "1", "--enable_progress_bar", "false", "--model.backbone", "FastCNN",
    "--model.backbone.width", "4", "--trainer.callbacks", "null", "--trainer.callbacks+=RunCheckpoint",
]  # fmt: skip
RUN = Path("lightning_logs/version_0")

REFUSED = {
    "model.backbone": ("--model.backbone SimpleCNN", ["FastCNN"]),
    "model.head": ("--model.head.margin 0.2", ["model.head.margin: the checkpoint has 0.5, this run 0.2"]),
    "model.optimizer": (
        "--model.optimizer.lr 0.0001",
        ["model.optimizer.lr: the checkpoint has 0.003, this run 0.0001"],
    ),
    "model.lr_schedule": (
        "--model.lr_schedule null",
        ["model.lr_schedule: the checkpoint has 'OneCycle', this run None"],
    ),
    "model.head_lr": ("--model.head_lr 0.5", ["model.head_lr: the checkpoint has None, this run 0.5"]),
}
SIBLINGS = [
    ("--model.optimizer.weight_decay 0.1", "model.optimizer.weight_decay: the checkpoint has 0.0, this run 0.1"),
    ("--model.optimizer SGD --model.optimizer.lr 0.1", "model.optimizer: the checkpoint has 'Adam', this run 'SGD'"),
    ("--model.lr_schedule Cosine", "model.lr_schedule: the checkpoint has 'OneCycle', this run 'Cosine'"),
    ("--model.lr_schedule.warmup_fraction 0.5", "warmup_fraction: the checkpoint has 0.25, this run 0.5"),
    ("--model.head.scale 10", "model.head.scale: the checkpoint has 30.0, this run 10"),
    ("--model.teacher last", "model.teacher.sha256: the checkpoint has None, this run"),
    ("--model.head CosFaceHead", "model.head: the checkpoint has 'ArcFaceHead', this run 'CosFaceHead'"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resumed")
    main([*FIT, "--default_root_dir", str(folder)])
    return folder


@pytest.fixture(autouse=True)
def in_folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)


@pytest.mark.parametrize(("flags", "messages"), [*REFUSED.values(), *((flags, [each]) for flags, each in SIBLINGS)])
def test_a_setting_that_the_checkpoint_fixes_is_refused(
    flags: str, messages: list[str], capsys: pytest.CaptureFixture
) -> None:
    config = (RUN / "config.yaml").read_bytes()
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--ckpt_path", "last", "--max_epochs", "2", *flags.split()])
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.count("\n") == 1 + said.startswith("last: ")
    if flags != "--model.backbone SimpleCNN":  # its weights do not fit, which is found first
        assert all(message in said for message in messages), said
    assert (RUN / "config.yaml").read_bytes() == config


def test_what_may_change_is_applied_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    main(FIT)
    main(["fit", "--ckpt_path", "last", "--max_epochs", "2", "--gradient_clip_val", "0.5", "--limit_val_batches", "2"])
    trainer = yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]
    assert (trainer["max_epochs"], trainer["gradient_clip_val"], trainer["limit_val_batches"]) == (2, 0.5, 2)
    assert read_checkpoint(RUN / "checkpoints/last.ckpt")["epoch"] == 1
    assert "nothing was left" not in capsys.readouterr().out
    main(["fit", "--ckpt_path", "last", "--max_epochs", "1"])
    end = "nothing was left to train: the checkpoint is at epoch 2, step 4; the run ends at max_epochs 1, max_steps -1"
    assert end in " ".join(capsys.readouterr().out.split())
    assert json.loads((RUN / "results.json").read_text())["notices"][0].startswith(end)


@pytest.mark.parametrize(
    ("setting", "share", "batches"), [("limit_val_batches", 0.3, "1 val"), ("overfit_batches", 0.01, "21 train")]
)
def test_a_share_of_less_than_one_batch(
    setting: str,
    share: float,
    batches: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main([*FIT, "--limit_train_batches", "1.0", f"--{setting}", str(share)])
    error = (
        f"error: trainer.{setting}: got {share}; expected a share that makes one of the {batches} batches, or a number"
    )
    assert error in capsys.readouterr().err


class Freeze(L.Callback):
    """Freezes the first weights after the first epoch, as BackboneFinetuning and alike do."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Freeze."""
        if trainer.current_epoch == 0:
            next(pl_module.parameters()).requires_grad_(False)


def test_what_a_callback_froze_is_frozen_in_the_resumed_run(tmp_path: Path) -> None:
    def fit(epochs: int, checkpoint: Path | None = None) -> ArcFaceModule:
        L.seed_everything(0)
        limits = {"max_epochs": epochs, "limit_train_batches": 2, "limit_val_batches": 0}
        trainer = L.Trainer(**QUIET, **limits, callbacks=[Freeze()], default_root_dir=tmp_path)
        module = ArcFaceModule(FastCNN(8, width=4), ArcFaceHead(8, 10))
        trainer.fit(module, datamodule=MNISTDataModule(dataset="digits"), ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module

    whole = fit(2)
    fit(1)
    assert read_checkpoint(tmp_path / "1.ckpt")["exact"]["module"]["frozen"]
    resumed = fit(2, tmp_path / "1.ckpt")
    assert not next(resumed.parameters()).requires_grad
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
