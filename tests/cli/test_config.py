import inspect
from pathlib import Path
from typing import Any

import pytest

from arcface_pl import ArcFaceHead, ArcFaceModule, MNISTDataModule, SimpleCNN
from arcface_pl.callbacks.run.signals import STOP_SIGNALS
from arcface_pl.cli.config import BASE_CONFIG, parse_yaml, read_config
from arcface_pl.cli.layers import merge
from arcface_pl.errors import SettingsError


class Subclass(ArcFaceModule):
    pass


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def base() -> dict:
    return read_config(BASE_CONFIG)


@pytest.mark.parametrize("overlay", ["CosFaceHead", {"class_path": "arcface_pl.heads.CosFaceHead"}])
def test_another_class_starts_from_its_own_defaults(base: dict, overlay: object) -> None:
    settings = merge(base, {"model": {"head": overlay}})
    assert "margin" not in settings["model"]["head"].get("init_args", {})
    assert base["model"]["head"]["init_args"]["margin"] == 0.5


def test_naming_the_same_class_keeps_what_was_set(base: dict) -> None:
    settings = merge(merge(base, {"model": {"head": {"margin": 0.3}}}), {"model": {"head": "ArcFaceHead"}})
    assert settings["model"]["head"]["init_args"]["margin"] == 0.3


def test_a_subclass_of_the_module_keeps_the_bases_model(base: dict) -> None:
    settings = merge(base, {"model": {"class_path": f"{__name__}.Subclass", "init_args": {"head": "CosFaceHead"}}})
    assert settings["model"]["class_path"].endswith("Subclass")
    assert settings["model"]["init_args"]["optimizer"] == base["model"]["optimizer"]
    assert settings["model"]["init_args"]["head"] == {"class_path": "CosFaceHead"}


def test_another_module_starts_from_its_own_defaults(base: dict) -> None:
    assert merge(base, {"model": "lightning.pytorch.demos.boring_classes.BoringModel"})["model"] == {
        "class_path": "lightning.pytorch.demos.boring_classes.BoringModel"
    }


@pytest.mark.parametrize("path", ["ArcFaceModule", "arcface_pl.ArcFaceModule"])
def test_the_module_itself_may_be_named(base: dict, path: str) -> None:
    named = {"model": {"class_path": path, "init_args": {"head_lr": 0.1}}}
    assert merge(base, named) == merge(base, {"model": {"head_lr": 0.1}})


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
    assert checkpoint["init_args"] == {
        "monitor": "val/accuracy",
        "mode": "min",
        "every_n_minutes": 10.0,
        "signals": [*STOP_SIGNALS],
    }


def test_merging_changes_neither_layer(base: dict) -> None:
    before = read_config(BASE_CONFIG)
    merge(base, {"trainer": {"callbacks": ["Timer"]}, "model": {"head": {"margin": 0.1}}})
    assert base == before


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-0.5", -0.5),
        ("12:30", "12:30"),
        ("no", "no"),
        ("null", None),
        ("true", True),
        ("010", 10),
        ("1_0", "1_0"),
        ("2024-01-01", "2024-01-01"),
        ("0x1f", "0x1f"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert parse_yaml(text) == value


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    text = "model:\n  head: &h {margin: 0.2, scale: 16}\n  backbone: {<<: *h, scale: 8}\n"
    assert read_config(write(tmp_path, text))["model"]["backbone"] == {"margin": 0.2, "scale": 8}


def test_sections_of_subcommands(tmp_path: Path) -> None:
    path = write(tmp_path, "seed_everything: 3\nfit: {trainer: {max_epochs: 4}}\ntest: {trainer: {devices: 2}}\n")
    assert read_config(path) == {"seed_everything": 3, "trainer": {"max_epochs": 4}}
    assert read_config(path, "test") == {"seed_everything": 3, "trainer": {"devices": 2}}
    assert read_config(path, "predict") == {"seed_everything": 3}


def test_what_lightning_cli_saves_is_read(tmp_path: Path) -> None:
    text = "optimizer: {class_path: SGD}\nlr_scheduler: null\nckpt_path: null\nweights_only: null\n"
    assert read_config(write(tmp_path, text)) == {"model": {"optimizer": {"class_path": "SGD"}, "lr_schedule": None}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed_everything: 1\nseed_everything: 2\n", "line 2: the key 'seed_everything' stands there twice"),
        ("trainer:\n  max_epochs: 1\n  max_epochs: 2\n", "line 3: the key 'max_epochs' stands there twice"),
        ("trainer: [unclosed\n", "not valid YAML"),
        ("- a\n", "got ['a']; expected a mapping of settings"),
        (
            "trainers: {}\n",
            "trainers: unknown; did you mean trainer?; accepts seed_everything",
        ),
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

    def defaults(cls: type) -> dict[str, Any]:
        """Return the defaults of the class's arguments, those that it passes on included."""
        kinds = [inspect.signature(each).parameters.items() for each in reversed(cls.__mro__) if each is not object]
        return {name: each.default for found in kinds for name, each in found if each.kind is not each.VAR_KEYWORD}

    for node, cls in ((base["data"], MNISTDataModule), (model["head"], ArcFaceHead), (model["backbone"], SimpleCNN)):
        for name, value in node["init_args"].items():
            assert value == defaults(cls)[name], f"{cls.__name__}.{name}"
    taken = {
        name for name in defaults(MNISTDataModule) if name not in ("augmentation", "args")
    }  # from subclasses, of object
    assert set(base["data"]["init_args"]) == taken
