"""Clock of a training run, which is stopped while the test accuracy is measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from arcface_pl import MNISTDataModule

__all__ = ["FirstStep", "Watch", "WatchSteps", "honest"]


@dataclass
class Watch:
    """Clock of training, stopped while the test set is evaluated."""

    steps_an_epoch: int
    looks: int
    accuracy: Callable[[], float]
    seconds: float = 0.0
    steps: int = 0
    curve: list[tuple[float, float, float]] = field(default_factory=list)
    """Epochs, training seconds and honest test accuracy at each look."""
    _begun: float = 0.0

    def start(self) -> None:
        """Begin before the first batch is fetched."""
        self._begun = time.perf_counter()

    def step(self) -> None:
        """Count a step; look at the test set where a tenth of an epoch is full."""
        self.steps += 1
        done = self.steps * self.looks
        look = done // self.steps_an_epoch > (done - self.looks) // self.steps_an_epoch
        if look and torch.cuda.is_available():
            torch.cuda.synchronize()  # what was only launched so far is training too
        self.seconds += time.perf_counter() - self._begun
        if look:
            self.curve.append((self.steps / self.steps_an_epoch, self.seconds, self.accuracy()))
        self.start()


class WatchSteps(L.Callback):
    """Lets the watch follow a Trainer."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start at each epoch: what lies between two of them is validation and checkpoints."""
        self.watch.start()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Count."""
        self.watch.step()


class FirstStep(L.Callback):
    """Says when the first step was done; `fit.py` puts it into a run of scripts/fit.py."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Print the time and leave."""
        print(f"first step at {time.time()}", flush=True)
        trainer.should_stop = True


def honest(
    data_dir: str, network: torch.nn.Module, weight: Callable[[], Tensor], normalize: tuple[float, float]
) -> Callable[[], float]:
    """Return what measures a network's accuracy on the test set without its seeing a label."""
    data = MNISTDataModule(data_dir, dataset="mnist", val_fraction=0.0, augment=False, seed=0)
    data.prepare_data()
    images, labels = data.load()[1]
    mean, std = normalize

    @torch.no_grad()
    def accuracy() -> float:
        network.eval()
        right, centers = 0, F.normalize(weight().float(), dim=1)
        for part, truth in zip(images.split(500), labels.split(500), strict=True):
            pixels = ((part.to(centers.device).float() / 255 - mean) / std).contiguous(
                memory_format=torch.channels_last
            )
            cosine = F.normalize(network(pixels).float(), dim=1) @ centers.T
            right += int((cosine.argmax(1).cpu() == truth).sum())
        network.train()
        return right / len(labels)

    return accuracy
