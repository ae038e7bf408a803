"""Omniglot's characters, trained on and measured without ceremony: what the studies in this folder share."""

import logging
import warnings
from functools import cache
from typing import Any

import lightning as L
import torch
from torch import Tensor

from arcface_pl import ArcFaceModule
from arcface_pl.data import OmniglotDataModule
from arcface_pl.evaluation.enrolled import identification, one_shot
from arcface_pl.metrics.functional import all_pairs_curve, recall_at_k

CHOOSE_ON = ("Bengali", "Futurama", "Hebrew", "Korean")  # as in omniglot.yaml
IMAGE_SIZE = 28


@cache
def drawings() -> Any:
    """Read the images once per process."""
    return OmniglotDataModule(image_size=IMAGE_SIZE).load()


class Characters(OmniglotDataModule):
    """Omniglot whose images a process reads once."""

    def load(self) -> Any:
        """Return the images that the process has."""
        return drawings()


def train(module: ArcFaceModule, data: Characters, epochs: int, accelerator: str) -> L.Trainer:
    """Train without validation, checkpoints and logs; returns the Trainer."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=epochs,
        limit_val_batches=0,
        enable_checkpointing=False,
        log_every_n_steps=1000,
        use_distributed_sampler=False,
        **quiet,  # type: ignore[arg-type]
    )
    trainer.fit(module, datamodule=data)
    return trainer


def measure(embeddings: Tensor, labels: Tensor, runs: list[Any]) -> dict[str, float]:
    """Measure verification, retrieval and identification of characters that were not trained on."""
    identified = identification(embeddings, labels)
    return {
        "eer": all_pairs_curve(embeddings, labels, far=()).equal_error_rate()[0],
        "recall": recall_at_k(embeddings, labels),
        "one_enrolled": identified["rank_1_of_1_enrolled"],
        "five_enrolled": identified["rank_1_of_5_enrolled"],
        "one_shot": one_shot(embeddings.cpu(), runs)["one_shot_accuracy"],
    }


def quieten() -> None:
    """Set a process up: one thread, and no remarks."""
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric", "arcface_pl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
