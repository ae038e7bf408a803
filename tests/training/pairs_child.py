"""Run by test_pairs_across_processes.py as a program: two processes train with losses on the pairs of both."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from pytorch_metric_learning import losses, miners
from tiny_runs import QUIET, SaveAt
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from arcface_pl import ArcFaceHead, ArcFaceModule, ExtraLoss, FastCNN, MNISTDataModule

D, C, BATCH, STEPS = 8, 10, 24, 4
TWO: dict[str, Any] = {"devices": 2, "strategy": "ddp"}


def entries() -> list[ExtraLoss]:
    """Losses with parameters, a memory and a miner; none draws."""
    torch.manual_seed(1)
    return [
        ExtraLoss(losses.SupConLoss(), 0.3),
        ExtraLoss(losses.TripletMarginLoss(), 0.5, miners.MultiSimilarityMiner()),
        ExtraLoss(losses.ProxyAnchorLoss(C, D), 0.1),
        ExtraLoss(losses.CrossBatchMemory(losses.ContrastiveLoss(), D, memory_size=2 * BATCH), 0.4),
    ]


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """Batches of one process, one an item: all rows of each, or those of ``rank``."""

    def __init__(self, rank: int, world_size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(STEPS, BATCH, 1, 4, 4, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 4, (STEPS, BATCH), generator=generator)  # of one class there are some in each part
        size = BATCH // world_size
        self.images, self.labels = (part[:, rank * size : (rank + 1) * size] for part in (images, labels))

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return self.images[number], self.labels[number]


class Batches(L.LightningDataModule):
    """Hands each process its part of every batch."""

    def train_dataloader(self) -> Any:
        return DataLoader(Rows(self.trainer.global_rank, self.trainer.world_size), batch_size=None)  # type: ignore[union-attr]


def train(**trainer: Any) -> ArcFaceModule:
    """Train in float64 by SGD, without anything that depends on how a batch is divided, such as batch norm."""
    L.seed_everything(0, verbose=False)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, D))
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    module = ArcFaceModule(backbone, ArcFaceHead(D, C), sgd, extra_losses=entries())
    L.Trainer(**{**QUIET, "precision": "64-true", "max_epochs": 2, **trainer}).fit(module, datamodule=Batches())
    return module


def digits(callbacks: list[L.Callback], **fit: Any) -> dict[str, Tensor]:
    """Train on batches that hold pairs, with losses and miners that draw; returns the weights."""
    L.seed_everything(0, verbose=False)
    drawn = [
        ExtraLoss(losses.TripletMarginLoss(triplets_per_anchor=2), 0.3, miners.DistanceWeightedMiner()),
        ExtraLoss(losses.MarginLoss(triplets_per_anchor=3, learn_beta=True), 0.3),
        ExtraLoss(losses.CrossBatchMemory(losses.NTXentLoss(), D, memory_size=256), 0.2),
    ]
    adam = partial(torch.optim.Adam, lr=0.01)
    module = ArcFaceModule(FastCNN(D, width=4), ArcFaceHead(D, C), adam, extra_losses=drawn)
    data = MNISTDataModule(dataset="digits", batch_size=32, images_per_class=4, val_fraction=0)
    limits = {"max_steps": 10, "limit_val_batches": 0}
    trainer = L.Trainer(**{**QUIET, **TWO, **limits}, callbacks=callbacks)
    trainer.fit(module, datamodule=data, weights_only=True, **fit)
    return {name: weight.detach().clone() for name, weight in module.state_dict().items()}


def main(folder: Path) -> None:
    """Write down, for each process, what it ended with."""
    union = train(**TWO)
    weights = digits([SaveAt(6, folder / "middle.ckpt")])  # of 22 in the first epoch
    resumed = digits([], ckpt_path=folder / "middle.ckpt")
    rank = torch.distributed.get_rank()
    torch.save({"union": union.state_dict(), "whole": weights, "resumed": resumed}, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
