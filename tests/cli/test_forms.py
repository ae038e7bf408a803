"""Every form of command line and config that LightningCLI and jsonargparse document, with its page."""

# ruff: noqa: E501  # a row per form

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from arcface_pl.cli import main

LIGHTNING = "https://lightning.ai/docs/pytorch/stable/cli/lightning_cli"
INTERMEDIATE, INTERMEDIATE_2 = f"{LIGHTNING}_intermediate.html", f"{LIGHTNING}_intermediate_2.html"
ADVANCED, ADVANCED_2, ADVANCED_3 = (f"{LIGHTNING}_advanced{n}.html" for n in ("", "_2", "_3"))
EXPERT = f"{LIGHTNING}_expert.html"
JSONARGPARSE = "https://jsonargparse.readthedocs.io/en/stable/"

FILES = {
    "c.yaml": "trainer: {max_epochs: 3}\nmodel: {head: {init_args: {margin: 0.25}}}\n",
    "d.yaml": "trainer: {max_epochs: 4}\n",
    "lightning.yaml": "fit:\n  seed_everything: 5\n  trainer: {max_epochs: 6}\n  ckpt_path: null\ntest: {trainer: {max_epochs: 9}}\n",
    "automatic.yaml": "optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.5}}\nlr_scheduler: null\n",
    "anchors.yaml": "model:\n  head: {init_args: &h {scale: 16.0}}\n  optimizer: {init_args: {<<: {lr: 0.5}}}\n",
    "callbacks.yaml": "trainer:\n  callbacks:\n    - class_path: lightning.pytorch.callbacks.EarlyStopping\n"
    "      init_args: {monitor: val/loss}\n    - class_path: Timer\n",
    "head.yaml": "class_path: CosFaceHead\ninit_args: {margin: 0.2}\n",
    "trainer.yaml": "max_epochs: 7\n",
    "model.yaml": "head_lr: 0.3\n",
    "parts.yaml": "trainer: trainer.yaml\nmodel: {head: head.yaml}\ndata: data.yaml\n",
    "bare.yaml": "trainer: {callbacks: []}\n",
    "data.yaml": "class_path: MNISTDataModule\ninit_args: {batch_size: 32}\n",
}
COSFACE = {"class_path": "arcface_pl.CosFaceHead", "init_args.margin": 0.2, "init_args.scale": 64.0}
STOPPING = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args.monitor": "val/loss"}
TIMER = {"class_path": "lightning.pytorch.callbacks.Timer", "init_args.duration": "00:01:00:00"}
CSV = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args.name": "lightning_logs"}

# Command line (with ~ for a space within a word), the setting to look at, what it must be, and the page that shows the form.
FORMS: list[tuple[str, str, Any, str]] = [
    ("--trainer.max_epochs 3", "trainer.max_epochs", 3, INTERMEDIATE),
    ("--trainer.max_epochs=3", "trainer.max_epochs", 3, INTERMEDIATE),
    ("--model.head_lr 0.3 --data.batch_size=32", "data.init_args.batch_size", 32, INTERMEDIATE),
    ("--seed_everything 7", "seed_everything", 7, INTERMEDIATE),
    ("--data MNISTDataModule --data.batch_size 32", "data.init_args.batch_size", 32, INTERMEDIATE_2),
    ("--data=arcface_pl.MNISTDataModule", "data.class_path", "arcface_pl.MNISTDataModule", INTERMEDIATE_2),
    ("--model ArcFaceModule --model.head_lr=0.3", "model.head_lr", 0.3, INTERMEDIATE_2),
    ("--model=arcface_pl.ArcFaceModule", "model.head_lr", None, INTERMEDIATE_2),
    ("--optimizer SGD", "model.optimizer.class_path", "torch.optim.SGD", INTERMEDIATE_2),
    ("--optimizer=AdamW --optimizer.lr=0.01", "model.optimizer.init_args.lr", 0.01, INTERMEDIATE_2),
    ("--lr_scheduler StepLR --lr_scheduler.step_size=3", "model.lr_schedule.init_args.step_size", 3, INTERMEDIATE_2),
    (
        "--lr_scheduler=ReduceLROnPlateau --lr_scheduler.monitor=val/loss",
        "model.lr_schedule",
        {"class_path": "lightning.pytorch.cli.ReduceLROnPlateau", "init_args.monitor": "val/loss"},
        INTERMEDIATE_2,
    ),
    ("--config c.yaml", "trainer.max_epochs", 3, ADVANCED),
    ("-c c.yaml", "model.head.init_args.margin", 0.25, ADVANCED),
    ("--config=c.yaml --trainer.max_epochs 100", "trainer.max_epochs", 100, ADVANCED),
    ("--config c.yaml --config d.yaml", "trainer.max_epochs", 4, ADVANCED),
    ("--config anchors.yaml", "model.optimizer.init_args.lr", 0.5, ADVANCED),
    ("--trainer trainer.yaml --model model.yaml --data data.yaml", "trainer.max_epochs", 7, ADVANCED),
    ("--trainer trainer.yaml --model model.yaml --data data.yaml", "model.head_lr", 0.3, ADVANCED),
    ("--trainer trainer.yaml --model model.yaml --data data.yaml", "data.init_args.batch_size", 32, ADVANCED),
    ("--config lightning.yaml", "trainer.max_epochs", 6, ADVANCED_2),
    ("--config lightning.yaml", "seed_everything", 5, ADVANCED_2),
    ("--config automatic.yaml", "model.optimizer.init_args.lr", 0.5, ADVANCED_2),
    ("--config automatic.yaml", "model.lr_schedule", None, ADVANCED_2),
    ("--trainer {max_epochs:~8}", "trainer.max_epochs", 8, ADVANCED_2),
    ("--model {head_lr:~0.3}", "model.head_lr", 0.3, ADVANCED_2),
    ("--env", "trainer.max_epochs", 77, ADVANCED_2),
    ("--env=true", "model.head_lr", 0.2, ADVANCED_2),
    ("--env=false", "model.head_lr", None, ADVANCED_2),
    ("--env --config c.yaml", "trainer.max_epochs", 3, JSONARGPARSE),  # variables are below config files and flags
    ("--env --max_epochs 5", "trainer.max_epochs", 5, JSONARGPARSE),
    ("--max_epochs 3 --max_epochs 4", "trainer.max_epochs", 4, JSONARGPARSE),
    (
        "--model.head.init_args.margin 0.1 --model.head.margin 0.2",
        "model.head.init_args.margin",
        0.2,
        JSONARGPARSE,
    ),
    ("--config parts.yaml", "trainer.max_epochs", 7, JSONARGPARSE),
    ("--config parts.yaml", "model.head", COSFACE, JSONARGPARSE),
    ("--config parts.yaml", "data.init_args.batch_size", 32, JSONARGPARSE),
    ("--config bare.yaml", "trainer.callbacks", [], JSONARGPARSE),
    ("--trainer.callbacks []", "trainer.callbacks", [], JSONARGPARSE),
    (
        "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/loss --trainer.callbacks.patience=5 "
        "--trainer.callbacks+=ModelSummary --trainer.callbacks.max_depth=2",
        "trainer.callbacks.-2.init_args.patience",
        5,
        ADVANCED_3,
    ),
    ("--config callbacks.yaml", "trainer.callbacks.-2", STOPPING, ADVANCED_3),
    (
        "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/loss "
        "--trainer.callbacks+=Timer --trainer.callbacks.duration=00:01:00:00",
        "trainer.callbacks.-2",
        STOPPING,
        ADVANCED_3,
    ),
    (
        "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/loss "
        "--trainer.callbacks+=Timer --trainer.callbacks.duration=00:01:00:00",
        "trainer.callbacks.-1",
        TIMER,
        ADVANCED_3,
    ),
    (
        "--trainer.callbacks=EarlyStopping --trainer.callbacks.monitor=val/loss",
        "trainer.callbacks.-1",
        STOPPING,
        ADVANCED_3,
    ),
    (
        "--trainer.callbacks+={class_path:~Timer,init_args:~{duration:~00:01:00:00}}",
        "trainer.callbacks.-1",
        TIMER,
        ADVANCED_3,
    ),
    ("--trainer.logger CSVLogger", "trainer.logger", CSV, ADVANCED_3),
    ("--trainer.logger=CSVLogger --trainer.logger.name=x", "trainer.logger.init_args.name", "x", ADVANCED_3),
    ("--trainer.logger+=CSVLogger", "trainer.logger.1", CSV, ADVANCED_3),
    ("--trainer.logger [RunLogger,CSVLogger]", "trainer.logger.1", CSV, ADVANCED_3),
    ("--trainer.logger false", "trainer.logger", False, ADVANCED_3),
    ("--model.head CosFaceHead --model.head.margin 0.2", "model.head", COSFACE, ADVANCED_3),
    ("--model.head.margin 0.2 --model.head=CosFaceHead", "model.head", COSFACE, ADVANCED_3),
    (
        "--model.head.class_path=arcface_pl.CosFaceHead --model.head.init_args.margin=0.2",
        "model.head",
        COSFACE,
        ADVANCED_3,
    ),
    ("--model.head {class_path:~CosFaceHead,init_args:~{margin:~0.2}}", "model.head", COSFACE, JSONARGPARSE),
    ("--model.head head.yaml", "model.head", COSFACE, JSONARGPARSE),
    ("--model.head.init_args.margin 0.3", "model.head.init_args.margin", 0.3, JSONARGPARSE),
    ("--model.optimizer torch.optim.RMSprop", "model.optimizer.class_path", "torch.optim.RMSprop", EXPERT),
    ("--model.optimizer SGD --model.optimizer.momentum 0.9", "model.optimizer.init_args.momentum", 0.9, EXPERT),
    (
        "--model.lr_schedule MultiStepLR --model.lr_schedule.milestones [2,4]",
        "model.lr_schedule.init_args.milestones",
        [2, 4],
        EXPERT,
    ),
    (
        "--model.lr_schedule CosineAnnealingWarmRestarts --model.lr_schedule.T_0 3",
        "model.lr_schedule.init_args.T_0",
        3,
        EXPERT,
    ),
    (
        "--model.lr_schedule torch.optim.lr_scheduler.ExponentialLR --model.lr_schedule.gamma 0.9",
        "model.lr_schedule.init_args.gamma",
        0.9,
        EXPERT,
    ),
    ("--data.held_out_classes [8,9]", "data.init_args.held_out_classes", [8, 9], JSONARGPARSE),
    (
        "--data.held_out_classes+=8 --data.held_out_classes+=9",
        "data.init_args.held_out_classes",
        ["8", "9"],
        JSONARGPARSE,
    ),
    ("--model.optimizer.betas [0.8,0.9]", "model.optimizer.init_args.betas", [0.8, 0.9], JSONARGPARSE),
    ("--model.lr_schedule null", "model.lr_schedule", None, JSONARGPARSE),
    ("--config {trainer:~{max_epochs:~8}}", "trainer.max_epochs", 8, JSONARGPARSE),
]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_TRAINER__MAX_EPOCHS", "77")  # read by --env only
    monkeypatch.setenv("PL_FIT__MODEL__HEAD_LR", "0.2")
    monkeypatch.setenv("PL_TEST__MODEL__HEAD_LR", "0.4")
    for name, text in FILES.items():
        Path(name).write_text(text)


def look_up(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = settings[int(part) if isinstance(settings, list) else part]
    return settings


@pytest.mark.parametrize(("line", "name", "expected", "page"), FORMS)
def test_a_documented_form_is_read(line: str, name: str, expected: Any, page: str, capsys) -> None:
    arguments = [word.replace("~", " ") for word in line.split()]
    main(["fit", "--accelerator", "cpu", *arguments, "--print_config"])
    found = look_up(yaml.safe_load(capsys.readouterr().out), name)
    if isinstance(expected, dict):
        assert {key: look_up(found, key) for key in expected} == expected, page
    else:
        assert found == expected, page


HELPS = [
    ("--model.head.help", "--model.head.num_classes", ADVANCED_3),
    ("--model.head.help CosFaceHead", "--model.head.margin", ADVANCED_3),
    ("--model.head.help=arcface_pl.CosFaceHead", "--model.head.margin", ADVANCED_3),
    ("--model.help ArcFaceModule", "--model.head_lr", INTERMEDIATE_2),
    ("--data.help ImageFolderDataModule", "--data.root", INTERMEDIATE_2),
    ("--trainer.logger.help CSVLogger", "--trainer.logger.save_dir", ADVANCED_3),
    ("--trainer.callbacks.help EarlyStopping", "--trainer.callbacks.monitor", ADVANCED_3),
    ("--model.optimizer.help SGD", "--model.optimizer.momentum", INTERMEDIATE_2),
    ("--optimizer.help=SGD", "--model.optimizer.momentum", INTERMEDIATE_2),
    ("--model.lr_schedule.help StepLR", "--model.lr_schedule.step_size", INTERMEDIATE_2),
    ("--lr_scheduler.help=StepLR", "--model.lr_schedule.step_size", INTERMEDIATE_2),
    ("--lr_scheduler.help ReduceLROnPlateau", "--model.lr_schedule.monitor", INTERMEDIATE_2),
]


@pytest.mark.parametrize(("line", "text", "page"), HELPS)
def test_help_on_a_class(line: str, text: str, page: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *line.split()])
    assert ended.value.code == 0
    assert text in capsys.readouterr().out, page


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--model.help Nosuch", "error: model: got Nosuch; expected the name or full path of a class"),
        ("--model.head.help=Nosuch", "error: model.head: got Nosuch; expected"),
        ("--trainer.callbacks.help", "error: trainer.callbacks.help: needs a value, the name or full path of a class"),
        ("--env=maybe", "error: --env: got 'maybe'; expected true, false, or no value"),
    ],
)
def test_a_class_or_switch_that_there_is_not(line: str, message: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *line.split()])
    assert ended.value.code == 2
    assert message in (said := capsys.readouterr().err)
    assert said.count("\n") == 1


def test_print_config_and_its_flags(capsys) -> None:
    """See lightning_cli_advanced.html, "Prepare a config file for the CLI"."""
    printed = {}
    for flags in ("", "=skip_null", "=skip_default"):
        main(["fit", "--accelerator", "cpu", f"--print_config{flags}"])
        printed[flags] = yaml.safe_load(capsys.readouterr().out)
    assert printed[""]["trainer"]["max_time"] is None
    assert "max_time" not in printed["=skip_null"]["trainer"]
    assert printed["=skip_null"]["trainer"]["max_steps"] == -1
    assert "max_steps" not in printed["=skip_default"]["trainer"]
    with pytest.raises(SystemExit):
        main(["fit", "--print_config=nosuch"])
    assert "--print_config: got 'nosuch'; expected skip_null" in capsys.readouterr().err


def test_a_config_before_the_subcommand(capsys) -> None:
    """See lightning_cli_advanced_2.html, "Customize arguments by subcommand"."""
    main(["--config", "lightning.yaml", "fit", "--accelerator", "cpu", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["max_epochs"] == 6


def test_a_list_of_devices_is_lightnings_to_read(capsys) -> None:
    """``--trainer.devices=0,1`` names two GPUs; see https://lightning.ai/docs/pytorch/stable/common/trainer.html."""
    with pytest.raises(SystemExit):
        main(["fit", "--accelerator", "cpu", "--devices", "0,1", "--print_config"])
    assert (
        "trainer.devices: got 0,1; `devices` selected with `CPUAccelerator` should be an int > 0"
        in capsys.readouterr().err
    )


def test_a_checkpoint_in_a_config(capsys) -> None:
    """What LightningCLI saves has a ckpt_path next to the sections."""
    Path("c.yaml").write_text("ckpt_path: nosuch.ckpt\n")
    with pytest.raises(SystemExit):
        main(["fit", "--config", "c.yaml"])
    assert "nosuch.ckpt" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("form", ["flag", "config"])
def test_one_batch_is_one_where_another_package_wrote_float_first(form: str, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("trainer: {limit_train_batches: 1}\n")
    words = ["--limit_train_batches", "1"] if form == "flag" else ["-c", "one.yaml"]
    code = (
        "import inspect, sys, lightning as L\n"
        "hints = inspect.unwrap(L.Trainer.__init__).__annotations__\n"
        "hints['limit_train_batches'] = float | int | None\n"
        "from arcface_pl.cli import main\n"
        f"main(['fit', *{words}, '--print_config'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert type(yaml.safe_load(done.stdout)["trainer"]["limit_train_batches"]) is int
