"""Fine-tuning beside training from scratch: MNIST to Fashion-MNIST, and to 20 of its images per class."""

import argparse
import logging
import statistics
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN
from arcface_pl.data.sources.catalog import CATALOG
from arcface_pl.data.sources.find import find_folder, load_dataset
from arcface_pl.preprocessing import normalize_images
from arcface_pl.training.schedules import OneCycle

FEW, EPOCHS_OF_FEW = 20, 60
WAYS: dict[str, dict[str, Any]] = {
    "from scratch": {},
    "fine-tuned": {"init_from": True},
    "fine-tuned, backbone at a tenth of the rate": {"init_from": True, "backbone_lr_factor": 0.1},
    "head alone": {"init_from": True, "freeze": "backbone"},
    "head alone, then all": {"init_from": True, "freeze": "backbone", "unfreeze_at_epoch": 20},
}

Labelled = tuple[Tensor, Tensor]


def load(name: str) -> tuple[Labelled, Labelled]:
    """Return training and test images, normalized, with their labels."""
    spec = CATALOG[name]
    parts = load_dataset(spec, find_folder(spec, "data"))
    return tuple((normalize_images(part.images, (0.5,), (0.5,)), part.labels) for part in parts)  # type: ignore[return-value]


def train(images: Labelled, epochs: int, seed: int, **settings: Any) -> tuple[ArcFaceModule, L.Trainer]:
    """Train a small network on images; ``settings`` are those of `ArcFaceModule`."""
    L.seed_everything(seed, verbose=False)
    optimizer = partial(torch.optim.Adam, lr=3e-3)
    module = ArcFaceModule(FastCNN(64), ArcFaceHead(64, 10, margin=0.3, scale=16), optimizer, OneCycle, **settings)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", enable_checkpointing=False, **quiet)  # type: ignore[arg-type]
    module.print = lambda *args, **kwargs: None  # type: ignore[method-assign]  # the table of what fitted, 50 times
    trainer.fit(module, DataLoader(TensorDataset(*images), batch_size=64, shuffle=True))
    return module.eval(), trainer


@torch.inference_mode()
def accuracy(module: ArcFaceModule, images: Labelled) -> float:
    """Return the share of images whose class is predicted."""
    found = torch.cat([module.head.predict(module(batch))[0] for batch in images[0].split(1000)])
    return float((found == images[1]).float().mean())


def few(images: Labelled, seed: int) -> Labelled:
    """Return `FEW` images of each class, drawn by ``seed``."""
    order = torch.randperm(len(images[1]), generator=torch.Generator().manual_seed(seed))
    chosen = torch.cat([order[images[1][order] == label][:FEW] for label in images[1].unique()])
    return images[0][chosen], images[1][chosen]


def main() -> None:
    """Train on MNIST, then in each of the `WAYS`, per seed; print means and spreads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=1, help="passes over MNIST and over Fashion-MNIST (default: 1)")
    parser.add_argument("--images", type=int, default=20_000, help="training images of each set (default: 20000)")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # Lightning's remarks on loaders, once per run
    (source, _), (target, test) = load("mnist"), load("fashion_mnist")
    source, target = ((images[: options.images], labels[: options.images]) for images, labels in (source, target))
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mnist.ckpt"
        for seed in options.seeds:
            train(source, options.epochs, seed)[1].save_checkpoint(path)
            for task, images, epochs in (
                (f"{FEW} images per class", few(target, seed), EPOCHS_OF_FEW),
                (f"{options.images:,} images", target, options.epochs),
            ):
                for way, settings in WAYS.items():
                    given = settings | ({"init_from": path} if "init_from" in settings else {})
                    if epochs <= settings.get("unfreeze_at_epoch", 0):
                        continue
                    module, _ = train(images, epochs, seed, **given)
                    found.setdefault((task, way), []).append(accuracy(module, test))
                    print(f"seed {seed}, {task}, {way}: {found[task, way][-1]:.2%}", flush=True)
    print("\n| training images | way | test accuracy | standard deviation |\n|---|---|---:|---:|")
    for (task, way), values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"| {task} | {way} | {100 * statistics.mean(values):.2f}% | {100 * spread:.2f} |")


if __name__ == "__main__":
    main()
