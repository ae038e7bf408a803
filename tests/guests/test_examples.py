"""Four things of one's own, each one file next to this one, through the command line and from Python."""

import json
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from tiny_runs import NO_FIGURES

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN
from arcface_pl.cli import main

HERE = Path(__file__).parent
BLOBS = ["--data", "guest_data.Blobs", "--data.num_images", "32"]
DIGITS = ["--data.dataset", "digits"]
SHORT = ["--max_epochs", "1", "--accelerator", "cpu", "--enable_progress_bar", "false"]

pytestmark = [
    pytest.mark.timeout(120),
    # Loaders of a stranger's are measured as they are, which is said
    pytest.mark.filterwarnings("ignore:TrainingAccuracy, training images come from the data set"),
]


@pytest.fixture(autouse=True)
def _guests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.chdir(tmp_path)


def results() -> dict:
    (path,) = Path("lightning_logs").glob("*/results.json")
    return json.loads(path.read_text())


FLAGS = {
    "head": [*DIGITS, "--model.head", "guest_head.LinearAngleHead", "--model.head.margin", "0.1"],
    "backbone": [
        *DIGITS,
        *("--model.backbone", "guest_backbone.TwoLayers", "--model.backbone.hidden", "16"),
        *("--model.head.embedding_dim", "24"),
    ],
    "data": [*BLOBS, "--model.backbone", "FastCNN", "--model.backbone.in_channels", "1"],
    "module": [
        *DIGITS,
        *("--model", "guest_module.ShortEmbeddings", "--model.penalty", "0.001"),
        *("--model.backbone", "FastCNN", "--model.head", "ArcFaceHead"),
    ],
}


@pytest.mark.parametrize("guest", FLAGS)
def test_a_guest_trains_from_the_command_line_and_again_from_its_saved_config(guest: str) -> None:
    main(["fit", *SHORT, *NO_FIGURES, *FLAGS[guest]])
    first = results()
    assert first["test/accuracy"] > 0.3  # guessing scores 0.1 on the digits, 0.25 on the blobs
    (config,) = Path("lightning_logs").glob("*/config.yaml")
    main(["fit", "--config", str(config), "--default_root_dir", "again"])
    (path,) = Path("again/lightning_logs").glob("*/results.json")
    again = json.loads(path.read_text())
    assert again["test/accuracy"] == first["test/accuracy"]
    assert again["test/loss"] == first["test/loss"]


def test_a_guest_shows_its_arguments_in_the_help(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--model.head.help", "guest_head.LinearAngleHead"])
    assert not caught.value.code
    assert "Added to the target angle" in " ".join(capsys.readouterr().out.split())


def test_a_wrong_argument_of_a_guest_is_one_line(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fit", *SHORT, *DIGITS, "--model.head", "guest_head.LinearAngleHead", "--model.head.margin", "-1"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "model.head.margin: got -1" in error
    assert error.count("\n") == 1
    assert not Path("lightning_logs").exists()


def test_guests_work_from_python(make_trainer: Callable[..., L.Trainer]) -> None:
    from guest_backbone import TwoLayers
    from guest_data import Blobs
    from guest_head import LinearAngleHead

    module = ArcFaceModule(TwoLayers(), LinearAngleHead(24, 4))
    data = Blobs()
    trainer = make_trainer(max_epochs=8)
    trainer.fit(module, datamodule=data)
    (scores,) = trainer.test(module, datamodule=data, verbose=False)
    assert scores["test/accuracy"] > 0.9
    trainer.save_checkpoint("guest.ckpt")
    loaded = ArcFaceModule.load_from_checkpoint("guest.ckpt", backbone=TwoLayers(), head=LinearAngleHead(24, 4))
    images, _ = next(iter(data.test_dataloader()))
    assert torch.equal(loaded(images), module.eval()(images))


def test_a_subclass_keeps_its_hyperparameter(make_trainer: Callable[..., L.Trainer]) -> None:
    from guest_data import Blobs
    from guest_module import ShortEmbeddings

    module = ShortEmbeddings(FastCNN(16, width=4), ArcFaceHead(16, 4), penalty=0.25)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, datamodule=Blobs())
    trainer.save_checkpoint("guest.ckpt")
    assert ShortEmbeddings.load_from_checkpoint("guest.ckpt").penalty == 0.25
    assert ShortEmbeddings.load_from_checkpoint("guest.ckpt", penalty=0.5).penalty == 0.5
