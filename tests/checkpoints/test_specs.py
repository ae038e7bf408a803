"""Specs describe a network by name and plain arguments, and build registered classes only."""

from typing import Any

import pytest
import torch
from torch import nn

from arcface_pl import ArcFaceHead, FastCNN
from arcface_pl.backbones import BACKBONES
from arcface_pl.checkpoints.specs import build, spec_of
from arcface_pl.heads import HEADS


class Guest(nn.Module):
    """A class of the user's, with arguments of every kind."""

    def __init__(self, width: int, names: list[str], act: nn.Module, lost: int = 3, mixed: Any = None) -> None:
        super().__init__()
        self.width, self.names, self.act, self.mixed = width, names, act, mixed

    @property
    def lost(self) -> int:
        raise RuntimeError("not ready yet")


def test_only_plain_values_are_described() -> None:
    guest = Guest(4, ["a", "b"], nn.ReLU(), mixed=[1, torch.zeros(2)])
    assert spec_of(guest) == {"name": "Guest", "kwargs": {"width": 4, "names": ["a", "b"]}}


@pytest.mark.parametrize("value", [True, 2, 0.5, "x", None, [], [1, "a", None, 0.5]])
def test_plain_values_are_kept_as_they_are(value: Any) -> None:
    assert spec_of(Guest(1, [], nn.ReLU(), mixed=value))["kwargs"]["mixed"] == value


@pytest.mark.parametrize("value", [(1, 2), {"a": 1}, torch.ones(1), torch.float32, [[1]], 1j])
def test_other_values_are_left_out(value: Any) -> None:
    assert "mixed" not in spec_of(Guest(1, [], nn.ReLU(), mixed=value))["kwargs"]


def test_what_is_described_is_built_again() -> None:
    head = ArcFaceHead(8, 5, margin=0.3, scale=12.0, sub_centers=2)
    spec = spec_of(head)
    copy = build("head", HEADS, spec)
    assert type(copy) is ArcFaceHead
    assert spec_of(copy) == spec
    assert {name: weight.shape for name, weight in copy.state_dict().items()} == {
        name: weight.shape for name, weight in head.state_dict().items()
    }


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "os.system", "kwargs": {"command": "true"}},
        {"name": "torch.nn.Linear", "kwargs": {}},
        {"name": "Guest", "kwargs": {}},
        {"name": ["FastCNN"], "kwargs": {}},
        {"name": "FastCNN"},
        {"name": "FastCNN", "kwargs": [64]},
        {"kwargs": {}},
        "FastCNN",
        None,
    ],
)
def test_nothing_but_a_registered_name_with_arguments_is_built(spec: Any) -> None:
    with pytest.raises(ValueError, match=r"^backbone: got .*; expected one of .*FastCNN.*Pass your own as backbone="):
        build("backbone", BACKBONES, spec)


def test_arguments_that_the_class_lacks_are_named() -> None:
    with pytest.raises(ValueError, match=r"^backbone: FastCNN does not accept these arguments: .*'depth'"):
        build("backbone", BACKBONES, {"name": "FastCNN", "kwargs": {**spec_of(FastCNN(8))["kwargs"], "depth": 3}})
