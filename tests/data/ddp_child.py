"""Run by test_ddp.py as a program: trains in two processes and writes down which images each of them saw."""

import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from arcface_pl.data import MNISTDataModule


class Recorder(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(10))
        self.seen: dict[str, list[Any]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen["train"].append((self.current_epoch, batch_idx, *batch))
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.net(batch[0])
        self.seen["val"].append(batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.seen["test"].append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveInMidEpoch(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 7:
            trainer.save_checkpoint(self.path)


def main(folder: Path) -> None:
    def once(callbacks: list[Callback], **fit: Any) -> tuple[L.Trainer, Recorder, MNISTDataModule]:
        torch.manual_seed(0)
        model, data = Recorder(), MNISTDataModule(dataset="digits", batch_size=128, eval_batch_size=36, seed=1)
        trainer = L.Trainer(
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            max_epochs=2,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
            callbacks=callbacks,
        )
        trainer.fit(model, data, **fit)
        return trainer, model, data

    trainer, model, data = once([SaveInMidEpoch(folder / "middle.ckpt")])
    whole = {part: list(seen) for part, seen in model.seen.items()}
    trainer.test(model, data, verbose=False)
    whole["test"] = model.seen["test"]
    _, resumed, _ = once([], ckpt_path=folder / "middle.ckpt", weights_only=True)
    torch.save(
        {
            "whole": whole,
            "resumed": resumed.seen["train"],
            "weights": (model.net[1].weight.detach(), resumed.net[1].weight.detach()),
            "test_labels": data.load()[1].labels,
        },
        folder / f"{trainer.global_rank}.pt",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
