"""What is refused before torch is imported is refused by the whole parser in the same words, and nothing else is."""

import inspect
from typing import Any

import lightning as L
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.accelerators import AcceleratorRegistry

import arcface_pl.callbacks
import arcface_pl.data
from arcface_pl.backbones import BACKBONES
from arcface_pl.callbacks import RunLogger
from arcface_pl.cli.command_line import parse_command_line
from arcface_pl.cli.config import BASE_CONFIG, dump_yaml, named_configs, read_config
from arcface_pl.cli.declared_types import declared_type, parameters
from arcface_pl.cli.early_values import check_early
from arcface_pl.cli.layers import MODULE, each_setting
from arcface_pl.cli.parser_errors import class_names
from arcface_pl.cli.run_settings import merge_settings
from arcface_pl.cli.settings import ArcFaceCLI
from arcface_pl.cli.values import ACCELERATORS
from arcface_pl.errors import SettingsError
from arcface_pl.heads import HEADS, ArcFaceHead

NONSENSE = ("no such thing", "1.5", "true", "-3", "[1, x]", "{a: 1}", "~", "yes", "1e3", ".inf", "2026-01-01", "0x1g")
VALUES = {
    name: value
    for name, value in each_setting(read_config(BASE_CONFIG))
    if not name.startswith("trainer.callbacks") and not isinstance(value, list)
}
CLASSES = ("data", "model.backbone", "model.head", "model.optimizer", "model.lr_schedule", "trainer.logger")
OF_CLASSES = [
    (role, cls, name)
    for role, classes in (("head", HEADS), ("backbone", BACKBONES))
    for cls in classes
    for name in inspect.signature(classes[cls]).parameters
    if name not in ("kwargs", "num_classes", "in_channels", "image_size")
]


def refusal(check: Any, words: list[str]) -> str:
    try:
        check(parse_command_line("fit", words))
    except SettingsError as error:
        return str(error)
    return ""


def early(request: Any) -> None:
    check_early(*request.over(read_config(BASE_CONFIG)))


def whole(request: Any) -> None:
    settings, flags, _ = merge_settings(request)
    ArcFaceCLI(settings, flags)


@pytest.fixture(autouse=True)
def builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ArcFaceCLI, "instantiate_classes", lambda self: None)  # what is refused there is refused later


def words_for(name: str, text: str, form: str) -> list[str]:
    if form == "flag":
        return [f"--{name}={text}"]
    nested: Any = text
    for part in reversed(name.split(".")):
        nested = {part: nested}
    return ["--config", dump_yaml(nested).replace(f"'{text}'", text)]


def check_alike(words: list[str]) -> bool:
    said = refusal(early, words)
    if said:
        assert said == refusal(whole, words)
    return bool(said)


@pytest.mark.parametrize("form", ["flag", "config"])
@pytest.mark.parametrize("start", [0, *(pytest.param(each, marks=pytest.mark.slow) for each in range(1, 12))])
def test_early_and_late_words_are_the_same(start: int, form: str) -> None:
    """The fast case takes a twelfth of the settings, and another value for each."""
    names = [name for name in VALUES if name not in CLASSES][start::12]
    refused = [
        check_alike(words_for(name, NONSENSE[(start + i) % len(NONSENSE)], form)) for i, name in enumerate(names)
    ]
    assert sum(refused) > len(names) / 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_settings_of_other_classes() -> None:
    refused = [check_alike([f"--model.{role}", cls, f"--model.{role}.{name}=x"]) for role, cls, name in OF_CLASSES]
    assert sum(refused) > 0.9 * len(refused)


NAMED = {
    "model.head": [*HEADS],
    "model.optimizer": [name for name, each in vars(torch.optim).items() if inspect.isclass(each)],
    "model.lr_schedule": ["OneCycle", "Cosine", "Constant", "WarmUp", *torch.optim.lr_scheduler.__all__],
}


@pytest.mark.parametrize("form", ["flag", "config"])
@pytest.mark.parametrize("place", NAMED)
def test_a_misspelled_class_is_refused_and_no_other(place: str, form: str) -> None:
    for name in ("Nosuch", f"{NAMED[place][0]}s", NAMED[place][0].upper()):
        assert check_alike(words_for(place, name, form))
    for name in (*NAMED[place], "null", "my_package.Mine", "nosuch"):
        assert not refusal(early, words_for(place, name, form))
    assert not refusal(early, [*words_for(place, "Mine", form), "--trainer.callbacks+=my_package.Callback"])


class HeadOfACaller(ArcFaceHead):
    pass


def test_a_class_of_the_program_that_calls_this_one_is_known_by_its_name() -> None:
    words = ["--model.head", "HeadOfACaller", "--model.head.margin", "0.2"]
    assert refusal(early, words) == refusal(whole, words) == ""


@pytest.mark.parametrize(
    "words",
    [
        "--model.head.margins 0.5",
        "--model.head LinearHead --model.head.margin 0.5",
        "--model.head CosFaceHead --model.head.sub_centres 2",
        "--model.backbone.widths 3",
        "--model.backbone SmallResNet --model.backbone.depth 3",
        "--data.nosuch 1",
        "--data ImageFolderDataModule --data.elastics 1",
        "--data TableDataModule --data.root_dir x",
        "--trainer.logger.nosuch 1",
        "--trainer.logger.names x",
        "--model.optimizer.lrr 1",
        "--model.optimizer SGD --model.optimizer.betas [0.9,0.99]",
        "--model.lr_schedule.warmup 0.1",
        "--model.lr_schedule StepLR --model.lr_schedule.optimizer 1",
        "--model.lr_schedule CosineAnnealingLR --model.lr_schedule.t_max 3",
    ],
)
def test_an_argument_that_a_class_does_not_have(words: str) -> None:
    assert check_alike(words.split()) == ("lr_schedule" not in words)  # whose arguments are not only its class's
    assert "unknown" in refusal(whole, words.split())


@pytest.mark.parametrize(("role", "cls"), [("head", cls) for cls in HEADS] + [("backbone", cls) for cls in BACKBONES])
def test_any_class_says_what_it_accepts(role: str, cls: str) -> None:
    assert check_alike([f"--model.{role}", cls, f"--model.{role}.nosuch=1"])


@pytest.mark.parametrize(("place", "classes"), [("model.head", HEADS), ("model.backbone", BACKBONES)])
def test_classes_are_listed_as_they_are_registered(place: str, classes: dict[str, type]) -> None:
    assert class_names(place) == f"{', '.join(sorted(classes))}, or the full path of a class"


WRONG = {
    "--devices x": "trainer.devices: got 'x'; expected 1 to 4096, a list of them, -1 or auto",
    "--devices 0,x": "trainer.devices: got '0,x'; expected 1 to 4096, a list of them, -1 or auto",
    "--accelerator x": "trainer.accelerator: got 'x'; expected one of auto, cpu, gpu, cuda, mps, tpu",
    "--max_epochs 0": "trainer.max_epochs: got 0; expected a whole number of at least 1, or -1 for no limit",
    "--max_epochs x": "trainer.max_epochs: got x; expected int, null",
    "--max_epochs 3 --min_epochs 4": "trainer.min_epochs: got 4; expected at most trainer.max_epochs, 3",
    "--seed_everything x": "seed_everything: got x; expected bool, int",
    "--seed_everything -1": "seed_everything: got -1; expected a whole number from 0 to 4294967295",
    "--limit_train_batches 1.5": "trainer.limit_train_batches: got 1.5; expected a share up to 1.0 or a number of",
    "--gradient_clip_algorithm mean": "trainer.gradient_clip_algorithm: got 'mean'; expected norm or value",
    "--model.optimizer SGD --model.optimizer.momentum x": "model.optimizer.momentum: got x; expected float",
    "--model.lr_schedule StepLR --model.lr_schedule.step_size x": "",  # found by the parser itself
    "-c folder --data.batch_size x": "data.batch_size: got x; expected int",
    "-c face --model.backbone.depth x": "model.backbone.depth: got x; expected int",
    "-c fast --model.freeze head": "model.freeze: got head; expected backbone, batch_norm, list[backbone, batch_norm]",
    "--data arcface_pl.data.TableDataModule --data.val_fraction x": "data.val_fraction: got x; expected float",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_refused_early(line: str) -> None:
    said = refusal(early, line.split())
    assert WRONG[line] in said
    assert bool(said) == bool(WRONG[line])


RIGHT = [
    "--precision auto",
    "--devices 0,1",
    "--devices auto",
    "--devices [0]",
    "--model.head.scale adacos",
    "--data my_package.MyData --data.batch_size x",
    "--model my_package.MyModel --model.head_lr x",
    "--model.init_from best --model.backbone.depth x",
    "--model.init_from best --model.backbone.nosuch 1",
    "--accelerator mine --model.backbone my_package.MyNet",
    "--trainer.callbacks+=EarlyStopping --trainer.callbacks.patience x",
    "--data.transform torchvision.transforms.v2.RandomErasing",
    "--model.update_head_in_backward sgd",
]


@pytest.mark.parametrize("line", RIGHT)
def test_what_is_right_or_not_certain_goes_on(line: str) -> None:
    assert refusal(early, line.split()) == ""


@pytest.mark.parametrize("name", named_configs())
def test_no_value_of_a_config_is_refused(name: str) -> None:
    assert refusal(early, ["--config", name]) == ""
    values = [(key, value) for key, value in each_setting(read_config(name)) if not isinstance(value, list)]
    words = [
        f"--{key}={'null' if value is None else str(value).lower()}" for key, value in values if key not in CLASSES
    ]
    words = [word for word in words if not word.startswith("--trainer.callbacks")]
    assert refusal(early, ["--config", name, *words]) == ""


def test_arguments_are_those_that_the_parser_finds() -> None:
    rooms = (arcface_pl.data, arcface_pl.backbones, arcface_pl.heads, arcface_pl.callbacks, torch.optim)
    kinds = (L.LightningDataModule, torch.nn.Module, RunLogger, torch.optim.Optimizer)
    classes = {
        f"{room.__name__}.{name}": each
        for room in rooms
        for name, each in vars(room).items()
        if inspect.isclass(each) and issubclass(each, kinds)
    }
    read = {path: parameters(path) for path in classes}
    assert [path for path, names in read.items() if names is None] == ["arcface_pl.backbones.Backbone"]
    for path in read.keys() - {"arcface_pl.backbones.Backbone"}:  # which has no constructor
        found = ArgumentParser().add_class_arguments(classes[path], "at", fail_untyped=False)
        assert read[path] == [name.removeprefix("at.") for name in found], path


def test_types_are_those_that_the_classes_declare() -> None:
    signature = inspect.signature(L.Trainer).parameters
    for name in ("max_epochs", "max_steps", "accumulate_grad_batches", "enable_progress_bar", "precision", "benchmark"):
        assert declared_type("lightning.pytorch.trainer.trainer.Trainer", name) == signature[name].annotation
    assert (
        declared_type("arcface_pl.heads.ArcFaceHead", "scale")
        == inspect.signature(HEADS["ArcFaceHead"]).parameters["scale"].annotation
    )
    for path, name in ((MODULE, "nosuch"), (MODULE, "backbone"), ("nosuch.Class", "a"), ("torch.optim.Nope", "lr")):
        assert declared_type(path, name) is None


def test_the_accelerators_are_those_of_lightning() -> None:
    assert {"auto", "gpu", *AcceleratorRegistry.available_accelerators()} == set(ACCELERATORS)
