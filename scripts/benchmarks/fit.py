"""Time a training epoch: the source document's loop, a bare loop over this project's batches, and this project.

    python scripts/benchmarks/fit.py --data_dir data --threads 2 --repeats 3

The three run in turn, a fresh process each, with the same threads, network, batch size (64), precision (float32) and
number of images; medians and ratios are printed, and written as JSON where --json says. Evaluation is left out.
"""

import argparse
import gzip
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from arcface_pl import ArcFaceHead, ArcFaceModule, MNISTDataModule, SimpleCNN
from arcface_pl.callbacks import RunLogger, RunProgressBar
from arcface_pl.cli.process import keep_freed_memory


class DocumentLoss(nn.Module):
    """The source document's loss: dense one-hot, acos, no guard past pi - margin."""

    def __init__(
        self, num_classes: int = 10, embedding_dim: int = 128, scale: float = 30.0, margin: float = 0.5
    ) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(embedding_dim, num_classes)))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        cosine = F.normalize(embeddings, dim=1) @ F.normalize(self.weight, dim=0)
        theta = torch.acos(cosine.clamp(-1.0 + 1e-7, 1.0 - 1e-7))
        one_hot = F.one_hot(labels, cosine.shape[1])
        return F.cross_entropy(self.scale * (one_hot * torch.cos(theta + self.margin) + (1 - one_hot) * cosine), labels)


class DocumentCNN(nn.Module):
    """The source document's network, ReLU after pooling and all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 7 * 7, 128)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 1, 28, 28)."""
        images = F.relu(F.max_pool2d(self.conv1(images), 2))
        images = F.relu(F.max_pool2d(self.conv2(images), 2))
        return self.fc1(images.flatten(1))


def unpack(data_dir: Path, target: Path) -> None:
    """Lay out MNIST's training files for torchvision, which reads them uncompressed only."""
    raw = target / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        packed = data_dir / "MNIST" / "raw" / f"{name}.gz"
        plain = packed.with_suffix("")
        (raw / name).write_bytes(gzip.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes())


def document_epoch(data_dir: str, num_images: int) -> float:
    """Train one epoch as the source document does: a PIL image at a time through a DataLoader."""
    transform = torchvision.transforms.ToTensor()
    images = torchvision.datasets.MNIST(data_dir, train=True, download=False, transform=transform)
    subset = torch.utils.data.Subset(images, range(num_images))
    loader = torch.utils.data.DataLoader(subset, batch_size=64, shuffle=True)
    network, loss_function = DocumentCNN(), DocumentLoss()
    optimizer = torch.optim.Adam([*network.parameters(), *loss_function.parameters()], lr=0.001)
    begun = time.perf_counter()
    for batch, labels in loader:
        optimizer.zero_grad()
        loss_function(network(batch), labels).backward()
        optimizer.step()
    return time.perf_counter() - begun


def our_parts(data_dir: str) -> tuple[ArcFaceModule, MNISTDataModule]:
    """Make this project's module and data with the source document's settings."""
    datamodule = MNISTDataModule(data_dir, dataset="mnist", val_fraction=0.0, normalize=False, augment=False, seed=0)
    module = ArcFaceModule(SimpleCNN(), ArcFaceHead(128, 10), lambda params: torch.optim.Adam(params, 1e-3, fused=True))
    return module, datamodule


def bare_epoch(data_dir: str, num_images: int) -> float:
    """Train one epoch on this project's batches without a Trainer."""
    module, datamodule = our_parts(data_dir)
    datamodule.prepare_data()
    datamodule.setup("fit")
    loader = datamodule.train_dataloader()
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    begun = time.perf_counter()
    for number, (images, labels) in enumerate(loader):
        if number * 64 >= num_images:
            break
        optimizer.zero_grad()
        module.head.loss(module(images), labels).backward()
        optimizer.step()
    return time.perf_counter() - begun


class Stopwatch(L.Callback):
    """Times the training part of an epoch."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin before the first batch is fetched."""
        self.begun = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Stop at the last batch."""
        self.seconds = time.perf_counter() - self.begun


def trainer_epoch(data_dir: str, num_images: int) -> float:
    """Train one epoch under the Trainer, with its bar and logging as `scripts/fit.py` has them."""
    module, datamodule = our_parts(data_dir)
    stopwatch = Stopwatch()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=-(-num_images // 64),
        log_every_n_steps=50,
        callbacks=[RunProgressBar(), stopwatch],
        logger=RunLogger(data_dir, log_graph=False),
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=datamodule)
    return stopwatch.seconds


CONTENDERS: dict[str, Callable[[str, int], float]] = {
    "the source document's loop": document_epoch,
    "bare loop, this project's batches": bare_epoch,
    "this project under the Trainer": trainer_epoch,
}


def measure_here(name: str, options: argparse.Namespace) -> None:
    """Print the seconds of one contender's epoch; runs in a process of its own."""
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    if CONTENDERS[name] is not document_epoch:
        keep_freed_memory()  # as scripts/fit.py does
    print(CONTENDERS[name](str(options.data_dir), options.num_images))


def measure(name: str, options: argparse.Namespace, data_dir: str) -> float:
    """Time one contender in a fresh process."""
    values = {"data_dir": data_dir, "threads": options.threads, "num_images": options.num_images, "contender": name}
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Time the contenders in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_dir = os.environ.get("ARCFACE_PL_DATA_DIR", "data")
    parser.add_argument("--data_dir", type=Path, default=default_dir, help="folder that holds MNIST/raw/")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num_images", type=int, default=60_000)
    parser.add_argument("--json", type=Path, default=None, help="write the figures there too")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        measure_here(options.contender, options)
        return
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        unpack(options.data_dir, Path(folder))
        for _ in range(options.repeats):
            for name in CONTENDERS:
                seconds[name].append(measure(name, options, folder))
    report(seconds, options)
    if options.json:
        options.json.write_text(json.dumps({"seconds": seconds, **vars(options)}, default=str))


def report(seconds: dict[str, list[float]], options: argparse.Namespace) -> None:
    """Print a row a contender and the two ratios."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    document, bare, trainer = medians.values()
    print(f"torch {torch.__version__}, lightning {L.__version__}, {platform.machine()}, {options.threads} threads")
    print(f"{options.num_images:,} images, batch 64, float32, {options.repeats} rounds in turn, a process each\n")
    for name, values in seconds.items():
        spread = f"{min(values):6.2f} to {max(values):6.2f}"
        print(f"{name:36} {medians[name]:6.2f} s ({spread})  {options.num_images / medians[name]:8,.0f} images/s")
    print(f"\nthis project / the document's loop   {trainer / document:.3f}")
    print(f"Trainer over the bare loop           {trainer / bare - 1:+.1%}")


if __name__ == "__main__":
    main()
