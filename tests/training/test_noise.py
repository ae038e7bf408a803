"""Why an accuracy with the margin in its logits is none: on images of noise it reaches 1, with nothing learnt."""

import math

import lightning as L
import pytest
import torch
from tiny_runs import QUIET
from torch.utils.data import DataLoader, TensorDataset

from arcface_pl import ArcFaceHead, ArcFaceModule, SimpleCNN

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # tensors in memory need none
    pytest.mark.slow,
    pytest.mark.timeout(120),
]

CLASSES = 10


def noise(count: int, seed: int) -> DataLoader:
    """Images without any content, under labels that have nothing to do with them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 8, 8, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=64)


def scores_after_training(extension: str) -> dict[str, float]:
    torch.manual_seed(0)
    head = ArcFaceHead(16, CLASSES, margin=0.5, scale=30.0, extension=extension)  # type: ignore[arg-type]
    module = ArcFaceModule(SimpleCNN(16, image_size=8), head, lambda params: torch.optim.Adam(params, 3e-3))
    trainer = L.Trainer(**QUIET, max_epochs=4, check_val_every_n_epoch=4)
    trainer.fit(module, noise(6400, seed=1), noise(2000, seed=2))
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def test_unguarded_margin_scores_everything_on_noise() -> None:
    scores = scores_after_training("none")
    assert scores["val/margin_accuracy"] > 0.99
    assert scores["val/accuracy"] == pytest.approx(1 / CLASSES, abs=0.03)
    # Every embedding lies opposite to every center: theta = pi, where cos(pi + m) > cos(pi).
    floor = math.log1p((CLASSES - 1) * math.exp(-30 * (1 - math.cos(0.5))))
    assert floor == pytest.approx(0.21, abs=0.005)
    assert floor < scores["val/loss"] < 2 * floor
    assert scores["val/angle/target_mean"] > 165


def test_monotone_extension_leaves_nothing_to_gain_on_noise() -> None:
    scores = scores_after_training("monotone")
    assert scores["val/margin_accuracy"] < 0.01
    assert scores["val/accuracy"] == pytest.approx(1 / CLASSES, abs=0.03)
    # Worse than guessing with equal logits: the loss does not pretend.
    assert scores["val/loss"] > math.log(CLASSES)
