"""init_from and freeze from the command line: the file's network, a new run, a resumed run without the file."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from arcface_pl.checkpoints.reading import read_checkpoint
from arcface_pl.cli import main

FIT = [
    "fit", "--data.dataset", "digits", "--accelerator", "cpu", "--max_epochs", "1", "--enable_progress_bar", "false",
    "--limit_train_batches", "2", "--limit_val_batches", "1", "--limit_test_batches", "1", "--trainer.callbacks=null",
    "--trainer.callbacks+=RunCheckpoint",
]  # fmt: skip
NETWORK = ["--model.backbone", "FastCNN", "--model.backbone.width", "4", "--model.backbone.embedding_dim", "16"]


def run(number: int) -> Path:
    return Path(f"lightning_logs/version_{number}")


def backbone(number: int) -> dict[str, torch.Tensor]:
    weights = read_checkpoint(run(number) / "checkpoints/last.ckpt")["state_dict"]
    return {name: tensor for name, tensor in weights.items() if name.startswith("backbone.")}


def test_a_network_is_fine_tuned_and_resumed_without_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent)])
    main([*FIT, *NETWORK])
    capsys.readouterr()
    # Another set of classes, and the network's class and sizes from the file
    tuned = ["--model.init_from", "best", "--model.freeze", "backbone", "--data.classes", "[1, 2, 3]"]
    main([*FIT, *tuned])
    printed = capsys.readouterr().out
    assert "loaded       18 of 18" in printed
    assert "frozen: 1,596 of the backbone's 1,596 parameters" in printed
    assert all(torch.equal(tensor, backbone(1)[name]) for name, tensor in backbone(0).items())
    config = yaml.safe_load((run(1) / "config.yaml").read_text())
    assert config["model"]["init_from"].endswith("version_0/checkpoints/best.ckpt")
    assert config["model"]["backbone"]["init_args"]["width"] == 4
    assert config["model"]["head"]["init_args"]["num_classes"] == 3
    assert (run(1) / "results.json").is_file()
    for path in run(0).rglob("*.ckpt"):
        path.unlink()
    main(["fit", "--ckpt_path", "last", "--max_epochs", "2"])
    main(["test", "--ckpt_path", "last", "--limit_test_batches", "1"])
    assert not run(2).exists()
    assert read_checkpoint(run(1) / "checkpoints/last.ckpt")["epoch"] == 1
    capsys.readouterr()
    # A subclass, from its config, by a file that is gone
    with pytest.raises(SystemExit) as ended:
        main([*FIT, *NETWORK, "--model", "guests.Module", "--model.init_from", "gone.pth"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "model.init_from: got 'gone.pth'; expected a checkpoint" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--model.head.class_weights", "[1, 2, 3]"],
            "model.head.class_weights: got '3 numbers'; expected one for each",
        ),
        (["--model.freeze", "head"], "model.freeze: got head; expected"),
        (["--model.trainable_blocks", "1"], "model.trainable_blocks: got 1; expected null where"),
        (["--model.freeze", "backbone", "--model.trainable_blocks", "9"], "expected fewer than the 3 blocks"),
        (["--model.backbone_lr_factor", "-1"], "model.backbone_lr_factor: got -1"),
    ],
)
def test_wrong_settings_are_one_line(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*FIT, *NETWORK, *flags])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    assert not Path("lightning_logs").exists()
