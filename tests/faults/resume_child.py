"""Run by test_exact_resume.py as a program: trains each cell whole, and stopped by SIGTERM and resumed.

    python resume_child.py FOLDER NUM_PROCESSES CELLS

CELLS is JSON: a list of {"name", "middle", "workers", "dropout", "augment", "accumulate", "seed"}. FOLDER/images holds
the images. What each process saw, and what it ended with, goes to FOLDER/NAME-RANK.pt.
"""

import hashlib
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from arcface_pl import ArcFaceHead, ArcFaceModule
from arcface_pl.backbones import Backbone
from arcface_pl.callbacks import RunCheckpoint
from arcface_pl.callbacks.run.signals import Stopped
from arcface_pl.data import ImageFolderDataModule
from arcface_pl.training.schedules import OneCycle

SIZE = 8


class Network(Backbone):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding_dim, self.in_channels, self.image_size = 6, 1, SIZE
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 12), nn.Dropout(dropout), nn.Linear(12, 6))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Witness(L.Callback):
    """Writes down every batch and its loss; sends SIGTERM to its own process in the middle of a batch."""

    def __init__(self, stop_in: int | None = None) -> None:
        self.stop_in, self.seen, self.metrics = stop_in, [], []  # type: ignore[var-annotated]

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.total_batch_idx == self.stop_in and trainer.is_global_zero:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        images = hashlib.sha256(batch[0].contiguous().numpy().tobytes()).hexdigest()
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.seen.append((trainer.current_epoch, batch_idx, images, batch[1].tolist(), outputs["loss"].item(), rate))

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.metrics.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def train(folder: Path, processes: int, cell: dict, root: str, stop_in: int | None, start: Path | None = None) -> dict:
    L.seed_everything(cell["seed"], verbose=False)
    witness, policy = Witness(stop_in), RunCheckpoint(every_n_minutes=None)
    module = ArcFaceModule(
        Network(0.5 if cell["dropout"] else 0.0),
        ArcFaceHead(6, 4),
        lambda weights: torch.optim.Adam(weights, lr=1e-2),
        OneCycle,
        num_threads=1,
    )
    data = ImageFolderDataModule(
        str(folder / "images"),
        image_size=SIZE,
        in_channels=1,
        batch_size=4,
        augment=cell["augment"],
        resident=not cell["workers"],
        num_workers=cell["workers"],
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_epochs=3,
        accumulate_grad_batches=cell["accumulate"],
        default_root_dir=folder / root,
        callbacks=[witness, policy],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    except Stopped:
        assert stop_in is not None
    return {
        "seen": witness.seen,
        "metrics": witness.metrics,
        "weights": module.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict()["state"],
        "step": trainer.global_step,
        "batches": trainer.num_training_batches,
        "finished": trainer.state.finished,
        "best": policy.best_metrics,
        "rank": trainer.global_rank,
    }


def main(folder: Path, processes: int, cells: list[dict]) -> None:
    warnings.filterwarnings("ignore", message=".*(LeafSpec|does not have many workers|suggested max number).*")
    for cell in cells:
        name = cell["name"]
        whole = train(folder, processes, cell, f"{name}-whole", None)
        batches = whole["batches"]
        # In the second batch of the second epoch, or in the last one of the first.
        stop_in = batches + 1 if cell["middle"] else batches - 1
        first = train(folder, processes, cell, f"{name}-stopped", stop_in)
        start = folder / f"{name}-stopped" / "checkpoints" / "last.ckpt"
        rest = train(folder, processes, cell, f"{name}-stopped", None, start)
        torch.save({"whole": whole, "first": first, "rest": rest}, folder / f"{name}-{whole['rank']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
