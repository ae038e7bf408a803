"""Networks rebuilt from what a checkpoint says of them; sizes that its weights do not have cost nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch

from arcface_pl import ArcFaceHead, SimpleCNN
from arcface_pl.backbones import SmallResNet
from arcface_pl.checkpoints.network import rebuild
from arcface_pl.checkpoints.specs import spec_of
from arcface_pl.errors import CheckpointError


def content_of(backbone: Any, head: Any) -> dict[str, Any]:
    weights = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    weights |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    return {"hyper_parameters": {"backbone": spec_of(backbone), "head": spec_of(head)}, "state_dict": weights}


@pytest.fixture
def content() -> dict[str, Any]:
    torch.manual_seed(0)
    return content_of(SmallResNet(8, width=8), ArcFaceHead(8, 5, margin=0.3))


def test_what_was_described_comes_back_with_its_weights(content: dict[str, Any]) -> None:
    backbone, head = rebuild(content, "model.ckpt")
    again = content_of(backbone, head)
    assert again["hyper_parameters"] == content["hyper_parameters"]
    assert all(torch.equal(tensor, again["state_dict"][name]) for name, tensor in content["state_dict"].items())


def test_own_classes_are_filled_where_they_are_given(content: dict[str, Any]) -> None:
    del content["hyper_parameters"]["backbone"]
    with pytest.raises(CheckpointError, match=r"model.ckpt: backbone: got None; expected one of .*Pass your own as"):
        rebuild(content, "model.ckpt")
    own = SmallResNet(8, width=8)
    assert rebuild(content, "model.ckpt", backbone=own)[0] is own
    assert torch.equal(own.fc.weight, content["state_dict"]["backbone.fc.weight"])
    with pytest.raises(CheckpointError, match="it has no backbone.conv1.bias, which the network needs"):
        rebuild(content, Path("model.ckpt"), backbone=SimpleCNN(8))


@pytest.mark.parametrize(
    ("role", "name"),
    [("backbone", name) for name in ("embedding_dim", "in_channels", "image_size", "width", "num_blocks")]
    + [("head", "embedding_dim"), ("head", "num_classes")],
)
@pytest.mark.parametrize("factor", [2, 10**6, 10**15])
@pytest.mark.timeout(60)  # memory or layers for the sizes would take hours
def test_impossible_sizes_are_refused_at_once(content: dict[str, Any], role: str, name: str, factor: int) -> None:
    content["hyper_parameters"][role]["kwargs"][name] *= factor
    with pytest.raises(CheckpointError, match="model.ckpt: "):
        rebuild(content, "model.ckpt")
