"""A user's own module, backbone and data module from the command line, with no change in the package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from PIL import Image
from tiny_runs import NO_FIGURES

from arcface_pl import ArcFaceModule, MNISTDataModule, Recognizer
from arcface_pl.cli import main

HERE = Path(__file__).parent
QUICK = ["--accelerator", "cpu", "--max_epochs", "1", "--enable_progress_bar", "false"]
FIT = ["fit", *QUICK, *NO_FIGURES]
DIGITS = ["--data.dataset", "digits"]


@pytest.fixture(autouse=True)
def guests_on_path(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


def fit(*args: str) -> tuple[dict, dict]:
    """Run fit; returns results.json and config.yaml."""
    main([*FIT, *args])
    (run,) = Path("lightning_logs").iterdir()
    return json.loads((run / "results.json").read_text()), yaml.safe_load((run / "config.yaml").read_text())


def test_a_subclass_of_the_module(capsys: pytest.CaptureFixture) -> None:
    results, config = fit("--model", "guests.Module", "--model.extra", "0.7", "--model.head.margin", "0.2", *DIGITS)
    assert results["test/accuracy"] > 0.3
    assert config["model"]["class_path"] == "guests.Module"
    assert config["model"]["init_args"]["extra"] == 0.7
    assert config["model"]["init_args"]["head"]["init_args"]["margin"] == 0.2
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.003  # the base's
    main(["fit", "--config", "lightning_logs/version_0/config.yaml", "--print_config"])
    again = yaml.safe_load(capsys.readouterr().out.partition("# arcface_pl settings\n")[2])
    assert again["model"] == config["model"]


@pytest.mark.filterwarnings("ignore:.*(are skipped|is skipped|are written|is not measured)")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_a_plain_module_and_a_plain_data_module(capsys: pytest.CaptureFixture) -> None:
    results, config = fit(
        "--model", "guests.PlainModule", "--model.hidden=4", "--data=guests.Data", "--data.size", "32"
    )
    assert config["model"] == {"class_path": "guests.PlainModule", "init_args": {"hidden": 4}}
    assert config["data"] == {"class_path": "guests.Data", "init_args": {"size": 32}}
    assert results["dataset"] == "Data"
    assert results["num_parameters"] == 784 * 4 + 4 + 4 * 10 + 10
    printed = capsys.readouterr().out
    assert "Data: 32 train" in printed
    assert "cross_entropy" in printed


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*training images come from the data set of train_dataloader")
def test_a_plain_data_module_has_its_classes_counted() -> None:
    results, config = fit("--data", "guests.Data")
    assert config["model"]["head"]["init_args"]["num_classes"] == 10
    assert results["dataset"] == "Data"
    assert 0 <= results["test/accuracy"] <= 1


NET = ["--model.backbone", "guests.Net"]


def test_any_network_is_a_backbone(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        fit(*NET, *DIGITS, "--model.head.embedding_dim", "12")
    assert "model.head.embedding_dim: got 12; expected 8, that of the backbone's embeddings" in capsys.readouterr().err
    results, config = fit(*NET, "--model.backbone.width", "12", *DIGITS)
    assert config["model"]["backbone"] == {"class_path": "guests.Net", "init_args": {"width": 12}}
    assert results["num_parameters"] == 785 * 12 + 12 * 10


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of `guests.Net`, a copy of its checkpoint, a folder of save_pretrained, and a picture."""
    folder = tmp_path_factory.mktemp("net")
    sys.path.insert(0, str(HERE))
    try:
        from guests import Net

        size = ["--model.backbone.width", "12", "--limit_train_batches", "4", "--trainer.callbacks=null"]
        size += ["--trainer.callbacks+=RunCheckpoint", "--default_root_dir", str(folder)]
        main(["fit", *QUICK, *NET, *DIGITS, *size])
    finally:
        sys.path.remove(str(HERE))
    best = folder / "lightning_logs/version_0/checkpoints/best.ckpt"
    shutil.copy(best, folder / "copy.ckpt")
    Recognizer.from_checkpoint(best, backbone=Net(12)).save_pretrained(folder / "saved")
    Image.fromarray(((torch.eye(28) + torch.eye(28).flip(0)) * 255).byte().numpy()).save(folder / "picture.png")
    return folder


IN_RUN = "lightning_logs/version_0/checkpoints/best.ckpt"
COMMANDS = {
    "test": ["test", *QUICK[:2], *QUICK[4:], "--ckpt_path", "MODEL"],
    "validate": ["validate", *QUICK[:2], *QUICK[4:], "--ckpt_path", "MODEL"],
    "predict the test set": ["predict", *QUICK[:2], *QUICK[4:], "--ckpt_path", "MODEL"],
    "predict": ["predict", "MODEL", "picture.png"],
    "evaluate": ["evaluate", "MODEL"],
    "export": ["export", "MODEL", "--format", "torch"],
    "recognize": ["recognize", "verify", "MODEL", "picture.png", "picture.png"],
}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("model", [IN_RUN, "copy.ckpt", "saved"])
def test_every_command_works_on_a_network_of_ones_own(
    command: str, model: str, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    if model == "saved" and command not in ("predict", "export", "recognize"):
        pytest.skip("takes a checkpoint")
    monkeypatch.chdir(trained)
    words = [model if word == "MODEL" else word for word in COMMANDS[command]]

    def run(*more: str) -> int:
        try:
            main([*words, *more])
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    if model != IN_RUN:  # no config of its run is there to name the class, and the checkpoint's own word is not taken
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [each for each in sys.path if each != str(HERE)])
            assert run() == 2
        said = capsys.readouterr().err
        assert f"--model.backbone: not set; {model} was trained with Net, which is not a class of arcface_pl" in said
        assert "Name the class: --model.backbone my_package.Net" in said
        assert said.count("\n") == 1
    width = ["--model.backbone.width", "12"] if model == "saved" else []  # a folder has what the class stores
    assert run(*([*NET, *width] if model != IN_RUN else ())) == 0
    capsys.readouterr()
    assert run(*NET, "--model.backbone.width", "13") == 2  # not that of the weights
    said = capsys.readouterr().err
    assert ("has the shape (12," in said and "in the network (13," in said) or "got 12; expected 13" in said


def test_a_module_that_a_checkpoint_names_is_not_imported(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    content = torch.load(trained / "copy.ckpt", weights_only=True)
    for name in ("trap.Net", "trap.SimpleCNN", "trap"):
        content["hyper_parameters"]["backbone"]["name"] = name
        torch.save(content, tmp_path / "trap.ckpt")
        for words in (["evaluate", "trap.ckpt"], ["test", *QUICK[:2], "--ckpt_path", "trap.ckpt"]):
            with pytest.raises(SystemExit) as ended:
                main(words)
            assert ended.value.code == 2
            assert "--model.backbone: not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "text"),
    [("--model=guests.Module", "--model.extra EXTRA"), ("--data=guests.Data", "--data.size SIZE")],
)
def test_their_arguments_are_in_the_help(flag: str, text: str, capsys: pytest.CaptureFixture) -> None:
    main(["fit", "--accelerator", "cpu", flag, "--model.head.num_classes", "10", "--help_all"])
    assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "guests.Module", "--model.extras", "1"], "model.extras: unknown; did you mean model.extra?"),
        (["--model", "guests.Module", "--model.extra", "x"], "model.extra: got x; expected float"),
        (["--model", "guests.Modules"], "model: got guests.Modules; expected the name or full path of a class"),
        (["--model.backbone=guests.Nosuch"], "model.backbone: got guests.Nosuch; expected FastCNN, "),
        (["--data", "guests.Data", "--data.sizes", "1"], "data.sizes: unknown; did you mean data.size?"),
        (["--data", "guests.Data", "--data.size", "x"], "data.size: got x; expected int"),
    ],
)
def test_their_arguments_are_checked(args: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *QUICK, *args])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path("lightning_logs").exists()


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_the_plain_lightning_cli() -> None:
    sizes = ["--model.backbone", "SimpleCNN", "--model.head", "ArcFaceHead", "--model.head.num_classes=10"]
    trainer = [f"--trainer.{word}" for word in ("accelerator=cpu", "max_epochs=1", "logger=false")]
    quiet = [f"--trainer.enable_{what}=false" for what in ("progress_bar", "model_summary", "checkpointing")]
    args = [
        "fit",
        "--seed_everything=0",
        *sizes,
        "--model.backbone.embedding_dim=8",
        "--model.head.embedding_dim=8",
        *trainer,
        *quiet,
    ]
    cli = LightningCLI(ArcFaceModule, MNISTDataModule, args=[*args, "--data.dataset=digits"], save_config_callback=None)
    assert cli.trainer.callback_metrics["val/accuracy"] > 0.1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_spawned_processes_run_to_the_closing_table(in_folder: Path) -> None:
    code = "import sys\nfrom arcface_pl.cli import main\nif __name__ == '__main__':\n    main(sys.argv[1:])\n"
    (in_folder / "run.py").write_text(code)
    command = [sys.executable, "run.py", "fit", *QUICK, *DIGITS, "--devices", "2", "--strategy", "ddp_spawn"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "numbers in lightning_logs/version_0/results.json" in done.stdout
    results = json.loads((in_folder / "lightning_logs" / "version_0" / "results.json").read_text())
    assert results["checkpoint"].endswith("best.ckpt")
    assert "val/accuracy" in results
