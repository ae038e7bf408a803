import inspect
from pathlib import Path

import pytest

from arcface_pl import ArcFaceHead, MNISTDataModule, SimpleCNN
from arcface_pl.cli.config import BASE_CONFIG, apply_flag, merge, parse_command_line, read_config
from arcface_pl.errors import SettingsError

TRAINER = ("max_epochs", "devices", "callbacks", "precision")


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def base() -> dict:
    return read_config(BASE_CONFIG)


def test_another_class_starts_from_its_own_defaults(base: dict) -> None:
    for settings in (
        apply_flag(base, "model.head", "CosFaceHead"),
        merge(base, {"model": {"head": {"class_path": "arcface_pl.heads.CosFaceHead"}}}),
    ):
        assert "margin" not in settings["model"]["head"].get("init_args", {})
    assert base["model"]["head"]["init_args"]["margin"] == 0.5


def test_naming_the_same_class_keeps_what_was_set(base: dict) -> None:
    settings = apply_flag(apply_flag(base, "model.head.margin", "0.3"), "model.head", "ArcFaceHead")
    assert settings["model"]["head"]["init_args"]["margin"] == 0.3


@pytest.mark.parametrize(
    "flags", [["--model.head", "X", "--model.head.k", "1"], ["--model.head.k", "1", "--model.head=X"]]
)
def test_order_of_a_class_and_its_settings_does_not_matter(base: dict, flags: list[str]) -> None:
    head = parse_command_line(flags, TRAINER).layers_over(base)["model"]["head"]
    assert head == {"class_path": "X", "init_args": {"k": 1}}


@pytest.mark.parametrize("key", ["callbacks", "callbacks+"])
def test_an_overlays_callbacks_add_to_the_bases(base: dict, tmp_path: Path, key: str) -> None:
    overlay = read_config(write(tmp_path, f"trainer:\n  {key}:\n    - class_path: Timer\n    - RunProgressBar\n"))
    merged = merge(base, overlay)["trainer"]
    names = [node["class_path"].rsplit(".")[-1] for node in merged["callbacks"]]
    assert names == [node["class_path"].rsplit(".")[-1] for node in base["trainer"]["callbacks"]] + ["Timer"]
    assert "callbacks+" not in merged


def test_an_overlay_changes_a_callback_of_the_base(base: dict) -> None:
    entry = {"class_path": "RunCheckpoint", "init_args": {"mode": "min"}}
    merged = merge(base, {"trainer": {"callbacks": [entry]}})["trainer"]["callbacks"]
    (checkpoint,) = [node for node in merged if node["class_path"].endswith("RunCheckpoint")]
    assert checkpoint["init_args"] == {"monitor": "val/accuracy", "mode": "min", "every_n_minutes": 10.0}


def test_merging_changes_neither_layer(base: dict) -> None:
    before = read_config(BASE_CONFIG)
    apply_flag(base, "trainer.callbacks", "[{class_path: Timer}]")
    apply_flag(base, "model.head.margin", "0.1")
    assert base == before


def test_flags_win_over_files_wherever_they_stand(base: dict, tmp_path: Path) -> None:
    path = write(tmp_path, "trainer: {max_epochs: 3}\n")
    request = parse_command_line(["--max_epochs", "7", "--config", str(path), "--trainer.devices=2"], TRAINER)
    settings = request.layers_over(base)
    assert (settings["trainer"]["max_epochs"], settings["trainer"]["devices"]) == (7, 2)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("-0.5", -0.5), ("12:30", "12:30"), ("no", "no"), ("null", None), ("true", True), ("010", 10)],
)
def test_values_are_read_as_a_person_means_them(base: dict, text: str, value: object) -> None:
    assert apply_flag(base, "model.head.margin", text)["model"]["head"]["init_args"]["margin"] == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed_everything: 1\nseed_everything: 2\n", "line 2: the key 'seed_everything' stands there twice"),
        ("trainer:\n  max_epochs: 1\n  max_epochs: 2\n", "line 3: the key 'max_epochs' stands there twice"),
        ("trainer: {max_epochs: 1_0}\n", "'1_0': write a number without underscores"),
        ("trainer: [unclosed\n", "not valid YAML"),
        ("- a\n", "holds a list"),
        ("trainers: {}\n", "unknown key 'trainers'; accepts seed_everything, trainer, model, data"),
        ("!!python/object/apply:os.system [echo]\n", "not valid YAML"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        read_config(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--max_epoch", "3"], "--max_epoch: unknown; did you mean --max_epochs?"),
        (["--zzz", "3"], "--zzz: unknown; --help_all lists every setting"),
        (["fast"], "'fast': a value without a flag"),
        (["--max_epochs"], "--trainer.max_epochs: needs a value"),
        (["--max_epochs", "--devices", "2"], "--trainer.max_epochs: needs a value"),
    ],
)
def test_a_bad_command_line_is_named(args: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message.replace("?", r"\?")):
        parse_command_line(args, TRAINER)


def test_a_setting_of_something_unset_is_named(base: dict) -> None:
    settings = apply_flag(base, "model.lr_schedule", "null")
    with pytest.raises(SettingsError, match="--model.lr_schedule.warmup_fraction: model.lr_schedule is None"):
        apply_flag(settings, "model.lr_schedule.warmup_fraction", "0.1")


def test_every_key_of_the_base_is_commented() -> None:
    lines = BASE_CONFIG.read_text().splitlines()
    previous = ""
    for number, line in enumerate(lines, 1):
        key = line.strip()
        structural = key.startswith(("class_path:", "- class_path:", "init_args:"))
        section = not line.startswith(" ")
        grouped = previous.startswith("limit_") and key.startswith("limit_")
        if key and not key.startswith("#") and not structural and not section and not grouped:
            assert previous.startswith("#"), f"line {number} of base.yaml has no comment: {line}"
        previous = key


def test_the_base_agrees_with_the_classes_own_defaults() -> None:
    base = read_config(BASE_CONFIG)
    model = base["model"]
    for node, cls in ((base["data"], MNISTDataModule), (model["head"], ArcFaceHead), (model["backbone"], SimpleCNN)):
        parameters = inspect.signature(cls).parameters
        for name, value in node["init_args"].items():
            assert value == parameters[name].default, f"{cls.__name__}.{name}"
    assert set(base["data"]["init_args"]) == set(inspect.signature(MNISTDataModule).parameters)
