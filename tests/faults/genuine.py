"""A genuine checkpoint of a few kilobytes, small enough to damage it everywhere, and whether two hold the same."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from tiny_runs import QUIET
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from arcface_pl import ArcFaceHead, ArcFaceModule
from arcface_pl.backbones import Backbone


class Tiny(Backbone):
    """A user's own backbone of 34 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding_dim, self.in_channels, self.image_size = 2, 1, 4
        self.linear = torch.nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


def make_module() -> ArcFaceModule:
    torch.manual_seed(0)
    return ArcFaceModule(Tiny(), ArcFaceHead(2, 3))


def make_trainer(folder: Path) -> L.Trainer:
    return L.Trainer(**QUIET, max_epochs=1, default_root_dir=folder)


def make_loader() -> DataLoader:
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, torch.arange(6) % 3), batch_size=3)


def write(folder: Path) -> Path:
    """Train for an epoch and save."""
    trainer = make_trainer(folder)
    trainer.fit(make_module(), make_loader())
    trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


def same(one: Any, other: Any) -> bool:
    """Whether two nests of containers hold the same plain values and tensors."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
