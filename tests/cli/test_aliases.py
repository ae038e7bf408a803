"""Names that people type because other programs have them lead to the right one."""

from typing import Any

import lightning as L
import pytest
import torch
from jsonargparse import ArgumentParser

from arcface_pl import ArcFaceHead, ArcFaceModule, ImageFolderDataModule, MNISTDataModule, SimpleCNN
from arcface_pl.cli import main
from arcface_pl.cli.aliases import SYNONYMS
from arcface_pl.training.schedules import OneCycle

TYPED = {
    "--lr": "--model.optimizer.lr",
    "--learning_rate": "--model.optimizer.lr",
    "--learning-rate": "--model.optimizer.lr",
    "--epochs": "--max_epochs",
    "--num_epochs": "--max_epochs",
    "--max-epochs": "--max_epochs",
    "--batch_size": "--data.batch_size",
    "--batch-size": "--data.batch_size",
    "--batchSize": "--data.batch_size",
    "--bs": "--data.batch_size",
    "--gpus": "--devices",
    "--gpu": "--accelerator gpu",
    "--device": "--accelerator",
    "--wd": "--model.optimizer.weight_decay",
    "--weight_decay": "--model.optimizer.weight_decay",
    "--momentum": "--model.optimizer.momentum",
    "--num_workers": "--data.num_workers",
    "--workers": "--data.num_workers",
    "--seed": "--seed_everything",
    "--resume": "--ckpt_path last",
    "--checkpoint": "--ckpt_path",
    "--output_dir": "--default_root_dir",
    "--output-dir": "--default_root_dir",
    "--amp": "--precision bf16-mixed",
    "--fp16": "--precision 16-mixed",
    "--dataset": "--data.dataset",
    "--data-dir": "--data.data_dir",
    "--margin": "--model.head.margin",
    "--scale": "--model.head.scale",
    "--optim": "--model.optimizer",
    "--scheduler": "--model.lr_schedule",
    "--backbone": "--model.backbone",
    "--loss": "--model.head",
    "--embedding_dim": "--model.backbone.embedding_dim",
    "--model.lr": "--model.optimizer.lr",
    "--trainer.epochs": "--max_epochs",
    "--model.margin": "--model.head.margin",
    "--model.optimizer.learning_rate": "model.optimizer.lr",
    "--model.optimizer.wd": "model.optimizer.weight_decay",
    "--data.bs": "data.batch_size",
}


@pytest.mark.parametrize("typed", TYPED)
def test_a_name_of_another_program(typed: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--data.dataset", "digits", typed, "3"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert f"{typed.removeprefix('--')}: unknown; did you mean {TYPED[typed]}?" in error, error


def arguments(cls: type) -> list[str]:
    return ArgumentParser().add_class_arguments(cls, "at", fail_untyped=False)


def test_what_is_suggested_exists() -> None:
    sections = {"trainer": [L.Trainer], "model": [ArcFaceModule], "data": [ImageFolderDataModule, MNISTDataModule]}
    parts: dict[str, list[Any]] = {
        "model.optimizer": [torch.optim.SGD],
        "model.lr_schedule": [OneCycle, torch.optim.lr_scheduler.StepLR],
        "model.head": [ArcFaceHead],
        "model.backbone": [SimpleCNN],
        **sections,
    }
    for flag in {each.split()[0].partition("+")[0] for each in SYNONYMS.values()} - {"ckpt_path", "seed_everything"}:
        section, _, name = flag.rpartition(".")
        assert any(f"at.{name}" in arguments(cls) for cls in parts[section or "trainer"]), flag
