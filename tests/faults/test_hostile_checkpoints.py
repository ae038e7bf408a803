"""Checkpoints that somebody else made on purpose: none may run code, and each ends in the one exception type."""

import io
import json
import os
import pickle
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from genuine import Tiny, make_loader, make_module, make_trainer, write
from PIL import Image

from arcface_pl import ArcFaceHead, ArcFaceModule, SimpleCNN
from arcface_pl.checkpoints.reading import FORMAT_VERSION, read_checkpoint
from arcface_pl.cli import main
from arcface_pl.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step`",
    "ignore:The number of training batches",
    "ignore:.*does not have many workers",
)
CLI = ("fit", "validate", "test", "predict")


class Payload:
    """Pickled, it asks whoever unpickles it to make the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a genuine checkpoint of the package's own classes holds."""
    folder = tmp_path_factory.mktemp("plain")
    trainer = make_trainer(folder)
    torch.manual_seed(0)
    module = ArcFaceModule(SimpleCNN(2, image_size=4), ArcFaceHead(2, 3))
    trainer.fit(module, make_loader())
    module.data_facts = {"name": "MNISTDataModule", "kwargs": {"dataset": "digits"}, "dataset_name": "digits"}
    trainer.save_checkpoint(folder / "model.ckpt")
    return read_checkpoint(folder / "model.ckpt")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def ways_to_read(path: Path, folder: Path, *, everywhere: bool = True) -> dict[str, Callable[[], Any]]:
    ways: dict[str, Callable[[], Any]] = {
        "read_checkpoint": lambda: read_checkpoint(path),
        "load_from_checkpoint": lambda: ArcFaceModule.load_from_checkpoint(path),
    }
    if not everywhere:
        return ways
    module = ArcFaceModule(SimpleCNN(2, image_size=4), ArcFaceHead(2, 3))
    for run in CLI:
        for weights_only in (True, False, None):  # the Trainer is told to unpickle anything: it must not
            ways[f"trainer.{run}({weights_only})"] = lambda run=run, weights_only=weights_only: getattr(
                make_trainer(folder), run
            )(module, make_loader(), ckpt_path=path, weights_only=weights_only)
    return ways


def check_refused(path: Path, canary: Path, capsys: pytest.CaptureFixture, *, everywhere: bool = True) -> None:
    for name, read in ways_to_read(path, canary.parent, everywhere=everywhere).items():
        with pytest.raises(CheckpointError) as caught:
            read()
        assert str(caught.value).startswith(f"{path}: "), name
        assert "\n" not in str(caught.value)
        assert not canary.exists(), name
    for command in CLI if everywhere else ():
        with pytest.raises(SystemExit) as ended:
            main([command, "--ckpt_path", str(path), "--data.dataset", "digits"])
        assert ended.value.code == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert printed.startswith(f"arcface-pl {command}: error: {path}: ")
        assert not canary.exists(), command


PICKLES: dict[str, Callable[[Any, io.BytesIO], None]] = {
    "torch.save": lambda content, file: torch.save(content, file),
    "legacy torch.save": lambda content, file: torch.save(content, file, _use_new_zipfile_serialization=False),
    "pickle": lambda content, file: pickle.dump(content, file),
}


@pytest.mark.parametrize("way", PICKLES)
def test_a_payload_is_not_run(
    plain: dict[str, Any], canary: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.chdir(canary.parent)
    for place in ("extra", "callbacks", "hyper_parameters", "state_dict"):
        content = deepcopy(plain)
        if place == "extra":
            content[place] = Payload(canary)
        else:
            content[place]["extra"] = Payload(canary)
        file = io.BytesIO()
        PICKLES[way](content, file)
        path = canary.parent / "evil.ckpt"
        path.write_bytes(file.getvalue())
        check_refused(path, canary, capsys, everywhere=place == "extra")
    # Which proves something, since it does work
    pickle.loads(pickle.dumps(Payload(canary)))
    assert canary.exists()


@pytest.mark.parametrize("key", ["_instantiator", "_class_path", "class_path"])
def test_the_name_of_code_is_not_followed(
    plain: dict[str, Any],
    canary: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    rng: random.Random,
    key: str,
) -> None:
    """A module on the path makes the canary when it is imported; every place in the file names it in turn."""
    monkeypatch.chdir(canary.parent)
    monkeypatch.syspath_prepend(str(canary.parent))
    (canary.parent / "evil_module.py").write_text(
        f"import os\nos.mkdir({str(canary)!r})\nclass Evil:\n    def __init__(self, *args, **kwargs): pass\n"
    )
    places = list(containers(plain))
    for number, place in enumerate(rng.sample(places, len(places))):
        content = deepcopy(plain)
        node: Any = content
        for part in place:
            node = node[part]
        node["nested"] = [{"more": {key: "evil_module.Evil", "init_args": {}}}]
        if number % 2:
            node[key] = "evil_module.Evil"
        path = canary.parent / "evil.ckpt"
        torch.save(content, path)
        check_refused(path, canary, capsys, everywhere=place == ("hyper_parameters",))
    assert len(places) > 20


def containers(node: Any, place: tuple[Any, ...] = ()) -> Any:
    """Places of all dictionaries in a checkpoint."""
    if isinstance(node, dict):
        yield place
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict | list):
            yield from containers(value, (*place, key))


def changed(plain: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    content = deepcopy(plain)
    change(content)
    return content


def weight(content: dict[str, Any]) -> torch.Tensor:
    return content["state_dict"]["head.weight"]


def put(content: dict[str, Any], tensor: Any, name: str = "head.weight") -> None:
    content["state_dict"][name] = tensor


def rename(content: dict[str, Any]) -> None:
    put(content, content["state_dict"].pop("head.weight"), "module.head.weight")


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "nan": (lambda c: weight(c)[1].fill_(float("nan")), "state_dict.head.weight holds numbers that are not finite"),
    "inf": (lambda c: weight(c)[0, 0].fill_(float("inf")), "state_dict.head.weight holds numbers that are not finite"),
    "shape": (lambda c: put(c, torch.zeros(3, 4)), "head.weight"),
    "more classes": (lambda c: put(c, torch.zeros(5, 2)), "head.weight"),
    "scalar": (lambda c: put(c, torch.tensor(1.0)), "head.weight"),
    "no tensor": (lambda c: put(c, [1.0, 2.0]), "state_dict.head.weight is a list, not a tensor"),
    "sparse": (lambda c: put(c, torch.eye(3, 2).to_sparse()), "is not a plain tensor"),
    "stretched": (lambda c: put(c, torch.zeros(1).expand(10**12, 2)), "announces 2000000000000 numbers"),
    "missing": (lambda c: c["state_dict"].pop("head.weight"), "head.weight"),
    "extra": (lambda c: put(c, torch.zeros(2), "head.other"), "it has head.other, which the network does not"),
    "renamed": (rename, "head.weight"),
    "no weights": (lambda c: c.pop("state_dict"), "it has no state_dict"),
    "no settings": (lambda c: c.pop("hyper_parameters"), "it has no hyper_parameters"),
    "settings of another kind": (lambda c: c.update(hyper_parameters=[1]), "its hyper_parameters is not a dictionary"),
    "weights of another kind": (lambda c: c.update(state_dict=5), "its state_dict is not a dictionary"),
    "no head": (lambda c: c["hyper_parameters"].pop("head"), "head"),
    "head of another kind": (lambda c: c["hyper_parameters"].update(head=7), "head: got 7; expected one of"),
    "unknown head": (
        lambda c: c["hyper_parameters"]["head"].update(name="os.system"),
        "head: got 'os.system'; expected",
    ),
    "setting of another kind": (lambda c: c["hyper_parameters"]["head"]["kwargs"].update(margin="x"), "margin: got"),
    "unknown setting": (lambda c: c["hyper_parameters"]["head"]["kwargs"].update(nosuch=1), "nosuch"),
    "settings without names": (lambda c: c["hyper_parameters"]["head"].update(kwargs={1: 2}), "head"),
    "rate of another kind": (lambda c: c["hyper_parameters"].update(head_lr="fast"), "head_lr"),
    "nan margin": (lambda c: c["hyper_parameters"]["head"]["kwargs"].update(margin=float("nan")), "margin: got"),
    "all memory": (lambda c: c["hyper_parameters"]["head"]["kwargs"].update(num_classes=10**12), "by the file's own"),
    "class names of another kind": (lambda c: c["data"].update(class_names=5), "class names are not a list of text"),
    "data of another kind": (lambda c: c.update(data="x"), "its data is a str"),
    "normalization of another kind": (
        lambda c: c["data"].update(normalization="xy"),
        "its normalization is not",
    ),
    "nothing to divide by": (
        lambda c: c["data"].update(normalization=((0.0,), (0.0,))),
        "its normalization is not",
    ),
    "newer": (lambda c: c.update(format_version=FORMAT_VERSION + 1), "install a newer arcface_pl"),
    "version of another kind": (lambda c: c.update(format_version="1"), "format_version: got '1'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit(plain: dict[str, Any], tmp_path: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    path = tmp_path / "model.ckpt"
    torch.save(changed(plain, change), path)
    with pytest.raises(CheckpointError, match=message) as caught:
        ArcFaceModule.load_from_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, [], 5, "text", torch.zeros(3), {"head.weight": torch.zeros(3, 2)}])
def test_plain_weights_and_other_content(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="a checkpoint written by arcface_pl"):
        read_checkpoint(path)


def test_content_that_winds_into_itself(plain: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    loop: list[Any] = []
    loop.append(loop)
    bomb: list[Any] = ["x"]
    for _ in range(64):
        bomb = [bomb, bomb]
    torch.save({**plain, "loop": loop, "bomb": bomb}, path)
    assert read_checkpoint(path)["epoch"] == plain["epoch"]


RESUMING = ("epoch", "global_step", "pytorch-lightning_version", "loops", "optimizer_states", "lr_schedulers")


@pytest.mark.parametrize("key", RESUMING)
def test_training_does_not_go_on_without_what_it_needs(plain: dict[str, Any], tmp_path: Path, key: str) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({name: value for name, value in plain.items() if name != key}, path)
    module = ArcFaceModule(SimpleCNN(2, image_size=4), ArcFaceHead(2, 3))
    with pytest.raises(CheckpointError, match=f"it has no {key}"):
        make_trainer(tmp_path).fit(module, make_loader(), ckpt_path=path, weights_only=True)
    ArcFaceModule.load_from_checkpoint(path)


@pytest.mark.parametrize("command", CLI)
def test_other_states_that_do_not_fit(
    plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.ckpt"
    torch.manual_seed(0)
    module = ArcFaceModule(SimpleCNN(2), ArcFaceHead(2, 10))
    hyper_parameters, weights = dict(module.hparams), module.state_dict()
    callbacks = {"AngleHistograms": {"epochs": 5}}
    changed = {"hyper_parameters": hyper_parameters, "state_dict": weights, "callbacks": callbacks}
    torch.save({name: value for name, value in {**plain, **changed}.items() if name != "exact"}, path)
    size = ["--model.backbone.embedding_dim", "2", "--data.allow_inexact_resume", "true"] if command == "fit" else []
    with pytest.raises(SystemExit) as ended:
        main([command, "--ckpt_path", str(path), "--data.dataset", "digits", "--accelerator", "cpu", *size])
    assert ended.value.code == 2
    assert f"arcface-pl {command}: error: {path}: what it holds does not fit" in capsys.readouterr().err


def test_a_checkpoint_of_another_network(tmp_path: Path) -> None:
    path = write(tmp_path)
    other = ArcFaceModule(Tiny(), ArcFaceHead(2, 4))
    for run in CLI:
        weights = r"head.weight has the shape \(3, 2\), and in the network \(4, 2\)"
        settings = "model.head.num_classes: the checkpoint has 3, this run 4"
        with pytest.raises(CheckpointError, match=settings if run == "fit" else weights):
            getattr(make_trainer(tmp_path), run)(other, make_loader(), ckpt_path=path, weights_only=True)
    with pytest.raises(CheckpointError, match="backbone: got 'Tiny'; expected one of"):
        ArcFaceModule.load_from_checkpoint(path)
    assert isinstance(ArcFaceModule.load_from_checkpoint(path, backbone=Tiny()).backbone, Tiny)
    assert make_module().backbone.embedding_dim == 2


def test_use_reads_no_config(canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config is a program: one that lies beside a checkpoint is left alone by everything but fit."""
    run = canary.parent / "lightning_logs" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    monkeypatch.chdir(canary.parent)
    monkeypatch.syspath_prepend(str(canary.parent))
    (canary.parent / "evil_module.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Evil: pass\n")
    config = {"model": {"head": {"class_path": "evil_module.Evil"}}, "data": {"class_path": "evil_module.Evil"}}
    for place in (run, run / "checkpoints", canary.parent):
        for name in ("config.yaml", "hparams.yaml"):
            (place / name).write_text(json.dumps(config))
    torch.manual_seed(0)
    module = ArcFaceModule(SimpleCNN(2), ArcFaceHead(2, 10))
    module.data_facts = {"name": "MNISTDataModule", "kwargs": {"dataset": "digits"}, "dataset_name": "digits"}
    trainer = make_trainer(canary.parent)
    module.trainer = trainer
    trainer.strategy.connect(module)
    trainer.save_checkpoint(run / "checkpoints" / "best.ckpt")
    for command in ("validate", "test", "predict"):
        main([command, "--ckpt_path", "best", "--enable_progress_bar", "false", "--accelerator", "cpu"])
    checkpoint, picture = str(run / "checkpoints" / "best.ckpt"), str(canary.parent / "seven.png")
    digit = Image.new("L", (28, 28))
    digit.paste(255, (12, 4, 16, 24))
    digit.save(picture)
    for command in (["predict", checkpoint, picture], ["export", checkpoint, "--format", "safetensors"]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert not ended.value.code
    assert not canary.exists()
