from pathlib import Path

import pytest

from arcface_pl.cli.command_line import Request, parse_command_line
from arcface_pl.cli.config import BASE_CONFIG, read_config
from arcface_pl.errors import SettingsError


def parse(*args: str) -> Request:
    return parse_command_line("fit", args)


@pytest.fixture
def base() -> dict:
    return read_config(BASE_CONFIG)


@pytest.mark.parametrize(
    "flags", [["--model.head=CosFaceHead", "--model.head.k=1"], ["--model.head.k", "1", "--model.head", "CosFaceHead"]]
)
def test_a_class_comes_before_its_arguments(base: dict, flags: list[str]) -> None:
    settings, parsed = parse(*flags).over(base)
    assert settings["model"]["head"] == {"class_path": "CosFaceHead"}  # ArcFace's margin is gone
    assert parsed == [("model.head", "CosFaceHead"), ("model.head.k", "1")]


def test_naming_the_same_class_keeps_its_arguments(base: dict) -> None:
    settings, _ = parse("--model.head", "ArcFaceHead").over(base)
    assert settings["model"]["head"]["init_args"]["margin"] == 0.5


def test_flags_come_after_files_wherever_they_stand(base: dict, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("trainer: {max_epochs: 3}\n")
    settings, parsed = parse("--max_epochs", "7", "--config", str(path), "--trainer.devices=2").over(base)
    assert settings["trainer"]["max_epochs"] == 3
    assert parsed == [("trainer.max_epochs", "7"), ("trainer.devices", "2")]


def test_a_callback_of_the_base_is_modified_and_another_added(base: dict) -> None:
    settings, parsed = parse("--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks.mode=min").over(base)
    names = [node["class_path"] for node in settings["trainer"]["callbacks"]]
    assert "arcface_pl.callbacks.RunCheckpoint" not in names
    assert len(names) == len(base["trainer"]["callbacks"]) - 1
    assert parsed[0][0] == "trainer.callbacks+"  # moved to the end, where the next flag finds it
    assert "RunCheckpoint" in parsed[0][1]
    assert parsed[1] == ("trainer.callbacks.mode", "min")


def test_neither_flags_nor_files_change_the_base(base: dict) -> None:
    parse("--trainer.callbacks", "[{class_path: Timer}]", "--model.head", "CosFaceHead").over(base)
    parse("--data", "ImageFolderDataModule", "--trainer.callbacks", "null").over(base)
    assert base == read_config(BASE_CONFIG)


def test_environment_variables_stand_for_flags_if_asked(base: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_TRAINER__MAX_EPOCHS", "77")
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")  # Lightning's own
    assert parse().flags == []
    assert parse("--max_epochs", "3", "--env").flags == [("trainer.max_epochs", "77"), ("trainer.max_epochs", "3")]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--max_epoch", "3"], "--max_epoch: unknown; did you mean --max_epochs?"),
        (["--lr", "3"], "--lr: unknown; did you mean --model.optimizer.lr?"),
        (["--epochs", "3"], "--epochs: unknown; did you mean --max_epochs?"),
        (["--batch_size", "3"], "--batch_size: unknown; did you mean --data.batch_size?"),
        (["--gpus", "3"], "--gpus: unknown; did you mean --devices?"),
        (["--margin", "3"], "--margin: unknown; did you mean --model.head.margin?"),
        (["--zzz", "3"], "--zzz: unknown; --help_all lists every setting"),
        (["fast"], "'fast': a value without a flag"),
        (["--max_epochs"], "trainer.max_epochs: needs a value"),
        (["--max_epochs", "--devices", "2"], "trainer.max_epochs: needs a value"),
        (["--max_epochs", "1_0"], "trainer.max_epochs: got '1_0'; expected a number without underscores"),
    ],
)
def test_a_bad_command_line_is_named(args: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(*args)
    assert message in str(caught.value)
