"""Freezing: what is frozen does not move, thaws at its epoch, and a resumed run is the uninterrupted one to the bit."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tiny_runs import QUIET, Watch, assert_the_same
from torch import nn

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule, SmallResNet, TorchvisionBackbone
from arcface_pl.backbones import IResNet
from arcface_pl.backbones.blocks import blocks_of
from arcface_pl.callbacks.run.defaults import check_trainer
from arcface_pl.errors import SettingsError


class Record(L.Callback):
    """The backbone's state after each epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.states.append({name: each.clone() for name, each in pl_module.backbone.state_dict().items()})


def run(
    epochs: int, callbacks: list[L.Callback] | None = None, checkpoint: Path | None = None, **settings: Any
) -> tuple[ArcFaceModule, list[set[str]]]:
    """Train on the digits, 7 steps per epoch; returns the module and the names of what changed in each epoch."""
    L.seed_everything(3, verbose=False)
    backbone = settings.pop("backbone", None) or SmallResNet(8, width=10, num_blocks=2, dropout=0.2)
    module = ArcFaceModule(backbone, ArcFaceHead(8, 10), lambda groups: torch.optim.Adam(groups, 1e-2), **settings)
    first = {name: each.clone() for name, each in module.backbone.state_dict().items()}
    record = Record()
    data = MNISTDataModule(dataset="digits", batch_size=200, eval_batch_size=1000, augment=False)
    trainer = L.Trainer(**QUIET, max_epochs=epochs, callbacks=[record, *(callbacks or [])], val_check_interval=3)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    states = [first, *record.states]
    return module, [{name for name in old if not torch.equal(old[name], new[name])} for old, new in pairwise(states)]


def test_a_frozen_backbone_does_not_move_and_its_head_does() -> None:
    module, changed = run(1, freeze="backbone")
    assert changed == [set()]
    torch.manual_seed(0)
    assert not any(weight.requires_grad for weight in module.backbone.parameters())


def test_the_last_blocks_are_trained_and_a_thawed_backbone_is_trained_whole() -> None:
    everything = set(SmallResNet(8, width=10).state_dict())
    last = {name for name in everything if name.startswith(("fc.", "norm.", "blocks.1."))}
    _, changed = run(3, freeze="backbone", trainable_blocks=2, unfreeze_at_epoch=2)
    assert changed == [last, last, everything]


def test_statistics_of_batch_normalization_stay() -> None:
    statistics = {name for name in SmallResNet(8, width=10).state_dict() if "running" in name or "tracked" in name}
    _, changed = run(2, freeze="batch_norm", unfreeze_at_epoch=1)
    assert not changed[0] & statistics
    assert statistics <= changed[1]
    _, (with_last,) = run(1, freeze=["backbone", "batch_norm"], trainable_blocks=1)
    assert with_last == {"fc.weight", "norm.weight", "norm.bias"}


def test_a_thaw_with_several_processes_is_refused_before_any_work() -> None:
    """DDP agrees on the weights that it averages before training."""
    network = FastCNN(8, width=4), ArcFaceHead(8, 10)
    trainer = L.Trainer(**{**QUIET, "devices": 2}, strategy="ddp")
    check_trainer(ArcFaceModule(*network, freeze="backbone"), trainer)
    with pytest.raises(SettingsError, match="model.unfreeze_at_epoch: got 1; expected null with several processes"):
        check_trainer(ArcFaceModule(*network, freeze="backbone", unfreeze_at_epoch=1), trainer)


def test_what_the_user_froze_stays_frozen() -> None:
    backbone = SmallResNet(8, width=10)
    backbone.conv1.weight.requires_grad_(False)
    _, changed = run(2, freeze="backbone", unfreeze_at_epoch=1, backbone=backbone)
    assert "conv1.weight" not in changed[1]
    assert "conv2.weight" in changed[1]


@pytest.mark.parametrize("step", [7, 10, 14, 17])  # ends of frozen epochs, within them, and after the thaw
def test_a_resumed_run_is_the_uninterrupted_one(step: int, tmp_path: Path) -> None:
    how = {"freeze": "backbone", "trainable_blocks": 1, "unfreeze_at_epoch": 2, "backbone_lr_factor": 0.5}

    class Save(Watch):
        def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            pass

    whole, _ = run(3, [Save(step, tmp_path / "cut.ckpt")], backbone=FastCNN(8, width=4), **how)
    resumed, _ = run(3, checkpoint=tmp_path / "cut.ckpt", backbone=FastCNN(8, width=4), **how)
    assert_the_same(whole, resumed)


def test_the_backbones_rate_is_a_multiple_of_the_optimizers() -> None:
    module = ArcFaceModule(FastCNN(8), ArcFaceHead(8, 4), backbone_lr_factor=0.1, head_lr=0.5)
    groups: Any = module.configure_optimizers().param_groups  # type: ignore[union-attr]
    assert [group["lr"] for group in groups] == [pytest.approx(1e-4), 0.5]


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (FastCNN(8), ["conv1 norm1", "conv2 norm2", "fc norm"]),
        (SmallResNet(8, width=10), ["conv1 norm1", "conv2 norm2", "conv3 norm3", "blocks.0", "blocks.1", "fc norm"]),
        (
            TorchvisionBackbone("resnet18", 8, image_size=32),
            ["network.conv1 network.bn1"]
            + [f"network.layer{stage}.{unit}" for stage in (1, 2, 3, 4) for unit in (0, 1)]
            + ["network.fc"],
        ),
        (
            TorchvisionBackbone("vit_b_16", 8, image_size=16),
            ["network.conv_proj"]
            + [f"network.encoder.layers.encoder_layer_{number}" for number in range(11)]
            + ["network.encoder.layers.encoder_layer_11 network.encoder.ln", "network.heads.head"],
        ),
        (
            IResNet(18, 8, image_size=32),
            [
                "conv1 bn1 prelu",
                *[f"layer{stage}.{unit}" for stage in (1, 2, 3, 4) for unit in (0, 1)][:-1],
                "layer4.1 bn2",
                "fc features",
            ],
        ),
    ],
)
def test_blocks(network: nn.Module, names: list[str]) -> None:
    assert [" ".join(name for name, _ in block) for block in blocks_of(network)] == names


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trainable_blocks": 1}, "trainable_blocks: got 1; expected null where the backbone is not frozen"),
        ({"unfreeze_at_epoch": 1}, "unfreeze_at_epoch: got 1; expected null where the backbone is not frozen"),
        ({"freeze": "batch_norm", "trainable_blocks": 1}, "trainable_blocks: got 1; expected null where"),
        ({"freeze": "backbone", "trainable_blocks": 3}, "expected fewer than the 3 blocks of this backbone"),
        ({"freeze": "backbone", "trainable_blocks": -1}, "trainable_blocks: got -1; expected a whole number"),
        (
            {"freeze": "backbone", "unfreeze_at_epoch": 0},
            "unfreeze_at_epoch: got 0; expected a whole number of at least 1",
        ),
        ({"freeze": "head"}, "freeze: got 'head'; expected backbone, batch_norm, or a list of them"),
        ({"backbone_lr_factor": 0.0}, "backbone_lr_factor: got 0.0; expected a number in (0, inf)"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        ArcFaceModule(FastCNN(8), ArcFaceHead(8, 4), **settings)
