"""Arguments of subclasses: what a checkpoint gives back, with or without ``save_hyperparameters``, or says it lacks."""

import io
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
import torch
from torch import nn

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN
from arcface_pl.errors import CheckpointError

T = TypeVar("T")
NETWORKS = ["backbone", "head"]


def networks() -> dict[str, Any]:
    torch.manual_seed(0)
    return {"backbone": FastCNN(16, width=4), "head": ArcFaceHead(16, 4)}


class Unsaved(ArcFaceModule):
    def __init__(self, backbone: nn.Module, head: ArcFaceHead, gamma: float = 1.0) -> None:
        super().__init__(backbone, head)
        self.doubled = 2 * gamma


class Required(ArcFaceModule):
    def __init__(self, gamma: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.doubled = 2 * gamma


class Keyword(ArcFaceModule):
    def __init__(self, backbone: nn.Module, head: ArcFaceHead, *, gamma: float = 1.0, **kwargs: Any) -> None:
        super().__init__(backbone, head, **kwargs)
        self.doubled = 2 * gamma
        self.save_hyperparameters(ignore=NETWORKS)


class Scaled(Unsaved):
    """Passes on another value than it gets, two classes up."""

    def __init__(self, backbone: nn.Module, head: ArcFaceHead, gamma: float = 1.0) -> None:
        super().__init__(backbone, head, gamma / 2)
        self.doubled *= 2


class Mixin:
    def __init__(self, *args: Any, gamma: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.doubled = 2 * gamma


class Mixed(Mixin, ArcFaceModule):
    pass


class Typed(ArcFaceModule, Generic[T]):
    def __init__(self, backbone: nn.Module, head: ArcFaceHead, gamma: T | None = None) -> None:
        super().__init__(backbone, head)
        self.save_hyperparameters("gamma")
        self.doubled = 2 * self.hparams.gamma


class WithProperty(ArcFaceModule):
    def __init__(self, backbone: nn.Module, head: ArcFaceHead, gamma: float = 1.0) -> None:
        super().__init__(backbone, head)
        self.doubled = 2 * gamma

    @property
    def gamma(self) -> float:
        raise AssertionError("a property of the argument's name is not asked")


class Early(ArcFaceModule):
    def __init__(self, backbone: nn.Module, head: ArcFaceHead, gamma: float = 1.0) -> None:
        self.save_hyperparameters(ignore=NETWORKS)
        super().__init__(backbone, head)
        self.doubled = 2 * gamma


class Late(ArcFaceModule):
    def __init__(self, width: int = 4, gamma: float = 1.0) -> None:
        backbone = FastCNN(16, width=width)
        super().__init__(backbone, ArcFaceHead(16, 4))
        self.doubled = 2 * gamma


@dataclass
class Options:
    names: list[str] = field(default_factory=list)


class Objects(ArcFaceModule):
    def __init__(self, backbone: nn.Module, head: ArcFaceHead, thing: Any = None) -> None:
        super().__init__(backbone, head)
        self.thing = thing
        self.save_hyperparameters(ignore=NETWORKS)


class UnsavedObjects(ArcFaceModule):
    def __init__(self, backbone: nn.Module, head: ArcFaceHead, thing: Any = None) -> None:
        super().__init__(backbone, head)
        self.thing = thing


@pytest.fixture
def save(make_trainer: Callable[..., Any], tiny_loader: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    def write(module: ArcFaceModule) -> Path:
        trainer = make_trainer(max_steps=1, max_epochs=1)
        trainer.fit(module, tiny_loader(8))
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        torch.load(tmp_path / "a.ckpt", weights_only=True)  # raises if there is more than plain values
        return tmp_path / "a.ckpt"

    return write


@pytest.fixture(autouse=True)
def no_advice() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attribute '.*' is an instance of `nn.Module`")  # Lightning's, to ignore it
        yield


@pytest.mark.parametrize(
    "kind", [Unsaved, Required, Keyword, Scaled, Mixed, Typed, WithProperty, Early], ids=lambda kind: kind.__name__
)
def test_a_subclass_gets_its_argument_back(kind: Any, save: Callable[..., Path]) -> None:
    module = kind(**networks(), gamma=2.5)
    path = save(module)
    loaded = kind.load_from_checkpoint(path)
    assert loaded.doubled == 5.0
    assert torch.equal(loaded.head.weight, module.head.weight)
    assert kind.load_from_checkpoint(path, gamma=3).doubled == 6


def test_a_subclass_that_builds_its_networks_gets_their_sizes_back(save: Callable[..., Path]) -> None:
    loaded = Late.load_from_checkpoint(save(Late(width=8, gamma=2.0)))
    assert (loaded.backbone.width, loaded.doubled) == (8, 4.0)


def test_what_a_subclass_ignores_is_not_in_the_file(save: Callable[..., Path]) -> None:
    class Secret(ArcFaceModule):
        def __init__(self, backbone: nn.Module, head: ArcFaceHead, password: str = "") -> None:
            super().__init__(backbone, head)
            self.save_hyperparameters(ignore=[*NETWORKS, "password"])

    path = save(Secret(**networks(), password="open sesame"))
    assert b"open sesame" not in path.read_bytes()


def test_a_changed_argument_of_the_base_class_is_the_subclass_s(save: Callable[..., Path]) -> None:
    class Halved(ArcFaceModule):
        def __init__(self, backbone: nn.Module, head: ArcFaceHead, head_lr: float = 0.1) -> None:
            super().__init__(backbone, head, head_lr=head_lr / 2)

    assert Halved.load_from_checkpoint(save(Halved(**networks(), head_lr=0.5))).head_lr == 0.25
    assert Keyword.load_from_checkpoint(save(Keyword(**networks(), head_lr=0.5))).head_lr == 0.5


THINGS: dict[str, Any] = {
    "dataclass": Options(["a"]),
    "classes": [nn.L1Loss, nn.MSELoss],
    "part of a list": ["a", object()],
    "part of a dict": {"b": torch.zeros(2)},
    "whole numbers as keys": {1: "one"},
    "set": {2},
    "module": nn.MSELoss(),
}


@pytest.mark.parametrize("name", THINGS)
def test_what_no_plain_value_holds_is_said_and_not_half_restored(name: str, save: Callable[..., Path]) -> None:
    kind: Any = UnsavedObjects if name in ("classes", "module") else Objects
    thing = deepcopy(THINGS[name])  # a network changes its mode
    path = save(kind(**networks(), thing=thing))
    with pytest.warns(UserWarning, match=rf"{kind.__name__}\.load_from_checkpoint: thing cannot be restored"):
        assert kind.load_from_checkpoint(path).thing is None
    assert kind.load_from_checkpoint(path, thing=thing).thing is thing


def test_plain_values_are_restored_as_they_are(save: Callable[..., Path]) -> None:
    thing = {"a": [None, True, -3, 0.25, "text", ["a", 1]], "b": {"c": [1.5, None]}}
    assert UnsavedObjects.load_from_checkpoint(save(UnsavedObjects(**networks(), thing=thing))).thing == thing


def test_a_network_without_a_default_is_asked_for(save: Callable[..., Path]) -> None:
    class Projected(ArcFaceModule):
        def __init__(self, backbone: nn.Module, head: ArcFaceHead, projector: nn.Module) -> None:
            super().__init__(backbone, head)
            self.projector = projector

    path = save(Projected(**networks(), projector=nn.Linear(16, 8)))
    with pytest.raises(CheckpointError, match="missing 1 required positional argument: 'projector'; pass the arg"):
        Projected.load_from_checkpoint(path)
    assert Projected.load_from_checkpoint(path, projector=nn.Linear(16, 8)).projector.out_features == 8


def test_lightnings_signature(save: Callable[..., Path]) -> None:
    path = save(Keyword(**networks()))
    for options in ({"strict": None}, {"weights_only": True}, {"weights_only": False}, {"hparams_file": None}):
        Keyword.load_from_checkpoint(path, **options)  # type: ignore[arg-type]
    Keyword.load_from_checkpoint(path, lambda storage, place: storage)
    with pytest.raises(ValueError, match=r"hparams_file: got 'h.yaml'; expected None.*Pass hyperparameters as keyword"):
        Keyword.load_from_checkpoint(path, hparams_file="h.yaml")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="it is a BytesIO; give the path"):
        Keyword.load_from_checkpoint(io.BytesIO(path.read_bytes()))  # type: ignore[arg-type]
    path = save(UnsavedObjects(**networks(), thing=nn.Linear(2, 2)))
    with pytest.raises(CheckpointError, match=r"thing\.0"):
        UnsavedObjects.load_from_checkpoint(path, thing=nn.Sequential(nn.Linear(2, 2)), strict=None)
    UnsavedObjects.load_from_checkpoint(path, thing=nn.Sequential(nn.Linear(2, 2)), strict=False)
