"""init_from: weights of the backbone from whatever file, once, and a new head."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import save_file
from tiny_runs import QUIET
from torch import Tensor, nn
from torch.utils.data import DataLoader

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, Recognizer, SmallResNet, TorchvisionBackbone
from arcface_pl.backbones import IResNet
from arcface_pl.errors import PretrainedError, UserError
from arcface_pl.training.init_from import load_weights

Weights = dict[str, Tensor]


def network(seed: int, **kwargs: Any) -> FastCNN:
    torch.manual_seed(seed)
    made = FastCNN(16, width=4, **kwargs)
    made.norm1.running_mean.normal_()
    return made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `network` 1 under three classes, which nothing was learnt with."""
    trainer = L.Trainer(**QUIET)
    trainer.strategy.connect(ArcFaceModule(network(1), ArcFaceHead(16, 3)))
    path = tmp_path_factory.mktemp("init") / "model.ckpt"
    trainer.save_checkpoint(path)
    return path


def prefixed(prefix: str) -> Callable[[Weights], Any]:
    return lambda weights: {prefix + name: tensor for name, tensor in weights.items()}


FORMS: dict[str, Callable[[Weights], Any]] = {
    "bare": lambda weights: weights,
    "module": prefixed("module."),
    "compiled and distributed": prefixed("_orig_mod.module."),
    "another Lightning module": lambda weights: {
        "state_dict": prefixed("model.")(weights) | {"criterion.weight": torch.zeros(9, 16)},
        "epoch": 3,
    },
    "backbone and head": lambda weights: prefixed("backbone.")(weights) | {"head.weight": torch.zeros(9, 16)},
    "a training program's": lambda weights: {"model": weights, "optimizer": {"state": {}, "lr": 0.1}},
    "a distributed module's": lambda weights: {
        "state_dict": prefixed("module.backbone.")(weights) | {"module.head.weight": torch.zeros(9, 16)},
        "hyper_parameters": {"lr": 0.1},
    },
    "net among other things": lambda weights: {"net": prefixed("module.")(weights), "acc": 93.1, "epoch": 3},
    "nested twice": lambda weights: {"model": {"state_dict": prefixed("encoder.")(weights)}, "args": {"arch": "cnn"}},
    "bfloat16": lambda weights: {name: tensor.bfloat16() for name, tensor in weights.items()},
    "half precision": lambda weights: {name: tensor.half() for name, tensor in weights.items()},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_every_form_of_a_state_dict_is_loaded(form: str, suffix: str, tmp_path: Path) -> None:
    source, target = network(1).state_dict(), network(2)
    content = FORMS[form](source)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        for key in ("net", "model", "state_dict"):
            content = content.get(key, content)
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=suffix == ".pt")
    found = load_weights(target, path)
    assert (len(found.loaded), found.missing, found.wrong_shape) == (len(source), [], [])
    for name, tensor in target.state_dict().items():
        narrow = {"half precision": torch.float16, "bfloat16": torch.bfloat16}.get(form, torch.float32)
        wanted = source[name].to(narrow).float() if tensor.is_floating_point() else source[name]
        assert torch.equal(tensor, wanted), name


def test_a_checkpoint_and_a_folder_of_this_package(checkpoint: Path, tmp_path: Path) -> None:
    Recognizer.from_checkpoint(checkpoint).save_pretrained(tmp_path / "saved")
    for source in (checkpoint, tmp_path / "saved"):
        target = network(2)
        found = load_weights(target, source)
        assert found[1:] == ([], [], [])
        assert torch.equal(target.fc.weight, network(1).fc.weight)
        assert torch.equal(target.norm1.running_mean, network(1).norm1.running_mean)


def test_what_did_not_fit_is_listed_and_keeps_its_values(checkpoint: Path) -> None:
    target = network(2, in_channels=3)
    before = target.conv1.weight.clone()
    found = load_weights(target, checkpoint)
    assert found.wrong_shape == [("conv1.weight", (4, 1, 5, 5), (4, 3, 5, 5))]
    assert torch.equal(target.conv1.weight, before)
    assert torch.equal(target.conv2.weight, network(1).conv2.weight)
    assert found.table().splitlines() == [
        "  loaded       17 of 18",
        "  missing      none",
        "  unexpected   none",
        "  wrong shape  conv1.weight (4, 1, 5, 5) in the file, (4, 3, 5, 5) in the network",
    ]


def test_torchvisions_own_files_fit_the_wrapped_network(tmp_path: Path) -> None:
    from torchvision import models

    torch.save(models.resnet18(num_classes=7).state_dict(), tmp_path / "resnet18.pth")
    found = load_weights(TorchvisionBackbone("resnet18", 8, image_size=32), tmp_path / "resnet18.pth")
    assert found.wrong_shape == [
        ("network.fc.weight", (7, 512), (8, 512)),
        ("network.fc.bias", (7,), (8,)),
    ]
    assert not found.missing
    assert not found.unexpected


def test_a_published_face_network_fits_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = IResNet(18, 16, image_size=32)
    torch.save({f"module.{name}": tensor for name, tensor in source.state_dict().items()}, tmp_path / "backbone.pth")
    target = IResNet(18, 16, image_size=32)
    found = load_weights(target, tmp_path / "backbone.pth")
    assert (len(found.loaded), found.missing, found.unexpected, found.wrong_shape) == (187, [], [], [])
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in target.state_dict().items())


class Trap:
    def __reduce__(self) -> Any:
        return (print, ("run",))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.pth", None, "There is no such file"),
        ("other.txt", {}, "expected a checkpoint"),
        ("resnet.pth", SmallResNet(8, width=10).state_dict(), "of which nothing fits FastCNN"),
        ("list.pt", [torch.zeros(2)], "It holds no tensors by name"),
        ("empty.pt", {"epoch": 3}, "It holds no tensors by name"),
        ("nan.pt", {"conv1.weight": torch.full((4, 1, 5, 5), torch.nan)}, "expected finite weights"),
        ("trap.pt", {"conv1.weight": Trap()}, "holds more than tensors and plain values"),
        (
            "whole.pth",
            nn.Linear(2, 2),
            "values (torch.nn.modules.linear.Linear). Save the network's state_dict() alone",
        ),
        ("torn.safetensors", b"torn", "It cannot be read"),
        ("torn.pth", b"torn", "It is damaged"),
        ("folder", "folder", "The folder has no model.safetensors"),
        ("best", None, "No run under"),
    ],
)
def test_what_cannot_be_used_is_one_line_with_the_settings_name(
    name: str, content: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    if content == "folder":
        Path(name).mkdir()
    elif isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif content is not None:
        torch.save(content, name)
    with pytest.raises(UserError, match=r"^model.init_from: got ") as caught:
        load_weights(network(1), name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "run" not in capsys.readouterr().out


def test_a_repository_of_the_hub_is_a_folder(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Recognizer.from_checkpoint(checkpoint).save_pretrained(tmp_path / "saved")
    monkeypatch.setattr("arcface_pl.training.init_from.download", lambda name: tmp_path / "saved")
    assert len(load_weights(network(2), "org/name").loaded) == 18

    def refuse(name: str) -> Path:
        raise PretrainedError(name, "not to be had", "check the name")

    monkeypatch.setattr("arcface_pl.training.init_from.download", refuse)
    with pytest.raises(UserError, match=r"^model.init_from: got 'org/name'; .*\. not to be had; check the name$"):
        load_weights(network(2), "org/name")


def fit(module: ArcFaceModule, loader: DataLoader, make: Callable[..., L.Trainer], **how: Any) -> L.Trainer:
    trainer = make(max_epochs=how.pop("max_epochs", 1))
    trainer.fit(module, loader, weights_only=True, **how)
    return trainer


def test_a_run_begins_with_them_once_and_never_reads_the_file_again(
    checkpoint: Path,
    tmp_path: Path,
    make_trainer: Callable[..., L.Trainer],
    tiny_module: Callable[..., ArcFaceModule],
    tiny_loader: Callable[..., DataLoader],
    capsys: pytest.CaptureFixture,
) -> None:
    file = tmp_path / "gone.ckpt"
    file.write_bytes(checkpoint.read_bytes())

    def make() -> ArcFaceModule:
        return tiny_module(init_from=file)

    untrained = make()
    trainer = make_trainer(max_epochs=0)
    trainer.fit(untrained, tiny_loader())
    assert torch.equal(untrained.backbone.fc.weight, network(1).fc.weight)
    assert "loaded       18 of 18" in capsys.readouterr().out
    started = make()
    fit(started, tiny_loader(), make_trainer).save_checkpoint(tmp_path / "own.ckpt")
    learnt = started.backbone.fc.weight.clone()
    assert not torch.equal(learnt, network(1).fc.weight)
    file.unlink()
    fit(started, tiny_loader(), make_trainer)  # a second fit goes on
    resumed = make()
    fit(resumed, tiny_loader(), make_trainer, ckpt_path=tmp_path / "own.ckpt", max_epochs=2)
    loaded = ArcFaceModule.load_from_checkpoint(tmp_path / "own.ckpt")
    assert torch.equal(loaded.backbone.fc.weight, learnt)
    make_trainer().test(make(), tiny_loader(), ckpt_path=tmp_path / "own.ckpt", verbose=False, weights_only=True)
    with pytest.raises(UserError, match=r"^model.init_from: got .*gone.ckpt.*no such file"):
        fit(make(), tiny_loader(), make_trainer)
