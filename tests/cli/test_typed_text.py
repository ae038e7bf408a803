"""Messages show a value as it was typed, whatever YAML makes of it."""

from pathlib import Path

import pytest

from arcface_pl.cli import main
from arcface_pl.cli.typed_text import with_typed_text

SHOWN = {
    "--data.batch_size=~": "data.batch_size: got ~; expected a whole number of at least 1",
    "--data.batch_size=no": "data.batch_size: got no; expected int",
    "--data.batch_size=1e3": "data.batch_size: got 1e3; expected int",
    "--data.val_fraction=yes": "data.val_fraction: got yes; expected float",
    "--data.val_fraction=.inf": "data.val_fraction: got .inf; expected a finite number",
    "--data.rotation=1e400": "data.rotation: got 1e400; expected a finite number",
    "--data.augment=~": "data.augment: got ~; expected bool",
    "--data.augment=Null": "data.augment: got Null; expected bool",
    "--data.seed=-010": "data.seed: got -010; expected a whole number of at least 0",
    "--model.head.margin=4": "model.head.margin: got 4; expected a number in [0, 3.14159)",
    "--model.optimizer.betas=[.nan,0.9]": "model.optimizer.betas: got .nan; expected a finite number",
    "--model.optimizer.betas=[2,0.9]": "model.optimizer.betas: got [2,0.9]; Invalid beta",
    "--model.head={class_path: ArcFaceHead, init_args: {margin: off}}": "model.head.margin: got off; expected float",
    "--optimizer.lr=yes": "model.optimizer.lr: got yes; expected float",
    "--seed_everything=on": "seed_everything: got on; expected a whole number from 0 to 4294967295",
    "--limit_val_batches=off": "trainer.limit_val_batches: got off; expected int",
    "--trainer.callbacks+=RunCheckpoint --trainer.callbacks.every_n_minutes=on": "every_n_minutes: got on; expected",
    # Not a number that the text does not show
    "--data.batch_size=12:30": "data.batch_size: got '12:30'; expected a decimal number",
    "--data.shift=1:30.5": "data.shift: got '1:30.5'; expected a decimal number",
    "--max_epochs=1:1": "trainer.max_epochs: got '1:1'; expected a decimal number",
    "--data.batch_size=+010": "data.batch_size: got '+010'; expected a decimal number",
    "--data.batch_size=2026-01-01": "data.batch_size: got 2026-01-01; expected int",
    "--model.optimizer.betas=[0.9, 0:59]": "model.optimizer.betas: got 0:59; expected",
    "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=a --trainer.callbacks.patience=1:1": "got '1:1'",
}
IN_CONFIGS = {
    "data: {init_args: {batch_size: no}}": "data.batch_size: got no; expected int",
    "data:\n  init_args:\n    batch_size: ~  # none": "data.batch_size: got ~; expected a whole number of at least 1",
    "trainer: {max_epochs: 1e3}": "trainer.max_epochs: got 1e3; expected int",
    "fit: {trainer: {limit_train_batches: on}}": "trainer.limit_train_batches: got on; expected int",
    "trainer: {max_epochs: 12:30}": "trainer.max_epochs: got '12:30'; expected a decimal number",
    "trainer: {max_epochs: 1_000}": "trainer.max_epochs: got '1_000'; expected a decimal number",
    "model: {optimizer: {init_args: {betas: [.inf, 0.9]}}}": "model.optimizer.betas: got .inf; expected a finite",
}


def refusal(words: list[str], capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--data.dataset", "digits", "--accelerator", "cpu", *words, "--print_config"])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("line", SHOWN)
def test_flags(line: str, capsys: pytest.CaptureFixture) -> None:
    words = [f"--{each}" for each in line.removeprefix("--").split(" --")]
    assert SHOWN[line] in refusal(words, capsys)


@pytest.mark.parametrize("text", IN_CONFIGS)
def test_config_files(text: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert IN_CONFIGS[text] in refusal(["-c", str(tmp_path / "c.yaml")], capsys)


def test_numbers_as_typed(capsys: pytest.CaptureFixture) -> None:
    words = ["--max_epochs=3", "--max_epochs=010", "--seed_everything=0xC0", "--data.data_dir=12:30"]
    main(["fit", "--data.dataset=digits", "--accelerator=cpu", *words, "--data.augment=no", "--print_config"])
    printed = capsys.readouterr().out
    for line in ("max_epochs: 10", "seed_everything: 192", "data_dir: '12:30'"):
        assert line in printed
    assert "augment: false" in printed


@pytest.mark.parametrize(
    ("message", "command", "words", "said"),
    [
        ("data.batch_size: got 2; expected", "fit", ["--data.batch_size", "3"], "data.batch_size: got 2; expected"),
        ("data.batch_size: got None; expected", "evaluate", ["best", "--data.batch_size", "~", "--far", "1"], "got ~;"),
        ("data.batch_size: got None; expected", "predict", ["best", "x.png"], "got None;"),
        ("data.seed: got True; expected", "fit", ["--data.seed", "yes", "--data.seed", "on"], "data.seed: got on;"),
        ("data.seed: got True; expected", "fit", ["-c", "nosuch", "--nosuch", "yes"], "data.seed: got True;"),
        ("data.seed: got True; expected", "fit", ["-c", "[" * 1000 + ": ", "--data.seed=" + "[" * 1000], "got True;"),
        ("model.x.py: cannot be read", "fit", ["--data.seed", "on"], "model.x.py: cannot be read"),
        ("data.seed: got 1.0 (a share); expected", "fit", ["--data.seed", "1"], "data.seed: got 1 (a share); expected"),
    ],
)
def test_only_the_text_that_means_the_value(message: str, command: str, words: list[str], said: str) -> None:
    assert said in with_typed_text(message, command, words)
