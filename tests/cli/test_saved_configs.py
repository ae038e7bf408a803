"""What is saved is what was given: a saved config gives the same settings again, and a run from it starts."""

from pathlib import Path

import pytest
import yaml
from tiny_runs import LIGHTNING_CALLBACKS, TINY_FIT, callback_flags
from torch.optim import lr_scheduler

import arcface_pl.callbacks as of_package
from arcface_pl.backbones import BACKBONES
from arcface_pl.cli import main
from arcface_pl.cli.config import dump_yaml, parse_yaml
from arcface_pl.heads import HEADS
from arcface_pl.training.hyperparameters import LOOP_CLASSES

DIGITS = ["--data.dataset", "digits", "--accelerator", "cpu"]
NEEDED = {
    "CosineAnnealingLR": ["T_max=5"],
    "CosineAnnealingWarmRestarts": ["T_0=5"],
    "CyclicLR": ["base_lr=0.1", "max_lr=1"],
    "ExponentialLR": ["gamma=0.9"],
    "LambdaLR": ["lr_lambda=math.cos"],
    "MultiStepLR": ["milestones=[1, 2]"],
    "MultiplicativeLR": ["lr_lambda=math.cos"],
    "OneCycleLR": ["max_lr=0.1", "total_steps=100"],
    "ReduceLROnPlateau": ["monitor=val/loss"],
    "StepLR": ["step_size=1"],
}
"""Arguments without a default of torch's schedulers."""
OPTIMIZERS = sorted(LOOP_CLASSES["optimizer"].keys() - {"Optimizer"})
SCHEDULES = sorted(
    name
    for name in LOOP_CLASSES["lr_schedule"]
    if hasattr(lr_scheduler, name) and not name.startswith("_") and name != "LRScheduler"
)
CANNOT = {
    "LBFGS": "one group of parameters",
    "Muon": "matrices only",
    "SparseAdam": "sparse gradients",
    "ChainedScheduler": "schedulers that have their optimizer",
    "SequentialLR": "schedulers that have their optimizer",
}
"""Refused by name, and a part of the reason."""


def schedule(name: str) -> list[str]:
    return ["--model.lr_schedule", name, *(f"--model.lr_schedule.{each}" for each in NEEDED.get(name, []))]


GIVEN = {
    **{f"head {name}": ["--model.head", name] for name in HEADS},
    **{f"backbone {name}": ["--model.backbone", name] for name in BACKBONES},
    **{f"optimizer {name}": ["--model.optimizer", name] for name in OPTIMIZERS if name not in CANNOT},
    **{f"schedule {name}": schedule(name) for name in SCHEDULES if name not in CANNOT},
    **{f"callback {name}": callback_flags(name, arguments) for name, arguments in LIGHTNING_CALLBACKS.items()},
    **{
        f"our callback {name}": [f"--trainer.callbacks+={name}"]
        for name in of_package.__all__
        if isinstance(getattr(of_package, name), type) and name not in ("RunLogger", "ScoredBatch")
    },
    "no callbacks": ["--trainer.callbacks", "null"],
    "one callback": ["--trainer.callbacks", "null", "--trainer.callbacks+=ModelSummary"],
    "no schedule": ["--model.lr_schedule", "null"],
    "held out": ["--data.held_out_classes", "[8, '9']"],
    "time": ["--max_time", "00:01:00:00"],
    "share": ["--val_check_interval", "0.5"],
}
RUN = {
    "no logger": ["--logger", "false"],
    "CSVLogger": ["--trainer.logger", "CSVLogger"],
    "TensorBoardLogger": ["--trainer.logger", "TensorBoardLogger"],
    "two loggers": ["--trainer.logger", "[RunLogger, CSVLogger]"],
    "simple profiler": ["--profiler", "simple"],
    "AdvancedProfiler": ["--trainer.profiler", "AdvancedProfiler"],
    "PyTorchProfiler": ["--trainer.profiler", "PyTorchProfiler"],
    "PassThroughProfiler": ["--trainer.profiler", "PassThroughProfiler"],
    "SingleDeviceStrategy": ["--trainer.strategy", "SingleDeviceStrategy"],
    "DDPStrategy": ["--trainer.strategy", "DDPStrategy", "--trainer.strategy.find_unused_parameters", "true"],
    "DoublePrecision": ["--trainer.plugins", "DoublePrecision"],
    "MixedPrecision": [
        "--trainer.plugins",
        "{class_path: MixedPrecision, init_args: {precision: bf16-mixed, device: cpu}}",
    ],
    "TorchCheckpointIO": ["--trainer.plugins", "TorchCheckpointIO"],
    "StochasticWeightAveraging": callback_flags("StochasticWeightAveraging", {"swa_lrs": "0.01", "device": "cpu"}),
}
TEXTS = ["1e3", "no", "0x10", "12:30", "2020-01-01", "-", "true", "é", "'q", "a\tb"]
FAST = {"no callbacks", "one callback", "callback LearningRateMonitor", "callback StochasticWeightAveraging"}


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def printed(capsys: pytest.CaptureFixture, *words: str) -> str:
    main(["fit", *words, "--print_config"])
    return capsys.readouterr().out


def check_same(capsys: pytest.CaptureFixture, *words: str) -> None:
    given = printed(capsys, *words)
    Path("saved.yaml").write_text(given, encoding="utf-8")
    assert printed(capsys, "--config", "saved.yaml") == given
    assert "Unable to serialize" not in given
    assert "!!" not in given


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in GIVEN]
)
def test_settings_survive_their_file(name: str, capsys: pytest.CaptureFixture) -> None:
    if name == "backbone TimmBackbone":
        pytest.importorskip("timm")
    backbone = [] if name.startswith("backbone") else ["--model.backbone", "FastCNN"]
    check_same(capsys, *DIGITS, *backbone, *GIVEN[name])


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RUN)
def test_a_run_starts_from_the_config_of_another(name: str, capsys: pytest.CaptureFixture) -> None:
    words = [*TINY_FIT, "--max_epochs", "1", "--enable_progress_bar", "false"]
    if "Logger" not in name and "logger" not in name:
        words += ["--trainer.logger", "CSVLogger"]
    main(["fit", *words, *RUN[name]])
    saved = next(Path().rglob("config.yaml"))
    main(["fit", "--config", str(saved)])
    others = [path for path in Path().rglob("config.yaml") if path != saved]
    (first, *lines), (second, *again) = (path.read_text().splitlines() for path in (saved, *others))
    assert lines == again
    assert first != second


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_text(text: str, capsys: pytest.CaptureFixture) -> None:
    assert parse_yaml(dump_yaml({"a": text})) == yaml.safe_load(dump_yaml({"a": text})) == {"a": text}
    if text in ("1e3", "no"):
        check_same(capsys, *DIGITS, "--default_root_dir", text, "--trainer.logger.name", text)


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_train_is_refused_by_name(name: str, capsys: pytest.CaptureFixture) -> None:
    setting = "model.optimizer" if name in OPTIMIZERS else "model.lr_schedule"
    with pytest.raises(SystemExit) as ended:
        main(["fit", *DIGITS, f"--{setting}", name])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"arcface-pl fit: error: {setting}: got '{name}'; expected another class: ")
    assert CANNOT[name] in error
    assert not list(Path().iterdir())


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "words",
    [["--model.optimizer", name] for name in OPTIMIZERS if name not in CANNOT]
    + [["--model.optimizer", "SGD", *schedule(name)] for name in SCHEDULES if name not in CANNOT],
    ids=lambda words: words[-1],
)
def test_every_optimizer_and_schedule_of_torch_trains(words: list[str], capsys: pytest.CaptureFixture) -> None:
    quiet = ["--enable_progress_bar", "false", "--limit_test_batches", "0", "--enable_checkpointing", "false"]
    main(["fit", *TINY_FIT, *quiet, "--model.optimizer.lr", "0.01", *words])
    assert "trained in" in capsys.readouterr().out


def test_another_layer_still_adds_to_a_saved_config(capsys: pytest.CaptureFixture) -> None:
    Path("saved.yaml").write_text(printed(capsys, *DIGITS, "--trainer.callbacks", "null"), encoding="utf-8")
    Path("more.yaml").write_text("trainer: {callbacks: [ModelSummary]}")
    both = yaml.safe_load(printed(capsys, "--config", "saved.yaml", "--config", "more.yaml"))
    assert [each["class_path"] for each in both["trainer"]["callbacks"]] == ["lightning.pytorch.callbacks.ModelSummary"]
