"""Replay the original program and measure its accuracy with the margin on the true class and of predictions.

    python scripts/reproduce.py --seeds 0 1 2

Trains --config source once per seed and writes reproduction.md, reproduction.json and reproduction.png.
"""

import argparse
import json
import logging
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arcface_pl.cli.config import BASE_CONFIG, read_config
from arcface_pl.cli.layers import merge
from arcface_pl.cli.report import versions
from arcface_pl.cli.settings import ArcFaceCLI
from arcface_pl.data import BatchLoader
from arcface_pl.seeding import run_seed

HERE = Path(__file__).parent
# Train and test accuracy that the original program prints after each epoch.
ORIGINAL = {
    "train": (0.9175, 0.9408, 0.9479, 0.9480, 0.9530, 0.9630, 0.9687, 0.9623, 0.9714, 0.9704),
    "test": (0.9159, 0.9352, 0.9357, 0.9387, 0.9440, 0.9467, 0.9502, 0.9465, 0.9539, 0.9491),
}
MEASURES = ("train/margin_accuracy", "test/margin_accuracy", "train/accuracy", "test/accuracy")


class BothWays(L.Callback):
    """Keeps all four accuracies of every epoch; those of the training set need a second pass, as in the original."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Pass over the training images once more, in evaluation mode."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]  # set where mypy does not look
        images = datamodule.train_dataloader().data
        loader = BatchLoader(images, batch_size=250, normalization=datamodule.normalization)
        right = torch.zeros(2)
        pl_module.eval()
        with torch.no_grad():
            for batch, labels in loader:
                embeddings = pl_module(batch)
                right[0] += (pl_module.head(embeddings, labels).argmax(1) == labels).sum()
                right[1] += (pl_module.head(embeddings).argmax(1) == labels).sum()
        pl_module.train()
        margin, honest = (right / len(images.labels)).tolist()
        tested = {name: float(trainer.callback_metrics[name]) for name in MEASURES if name.startswith("test/")}
        self.epochs.append({"train/margin_accuracy": margin, "train/accuracy": honest, **tested})
        shown = ", ".join(f"{name} {100 * self.epochs[-1][name]:.2f}%" for name in MEASURES)
        print(f"seed {run_seed()}, epoch {len(self.epochs)}: {shown}", flush=True)


def replay(seed: int, max_epochs: int, dataset: str) -> list[dict[str, float]]:
    """Train the source config with one seed; returns the four accuracies of each epoch."""
    quiet = {"logger": False, "callbacks": [], "enable_checkpointing": False, "enable_progress_bar": False}
    settings = merge(read_config(BASE_CONFIG), read_config("source"))
    settings["trainer"].update(quiet, accelerator="cpu", max_epochs=max_epochs)
    settings["data"]["init_args"]["dataset"] = dataset
    recorder = BothWays()
    with tempfile.TemporaryDirectory() as folder:  # the run leaves a config.yaml there
        settings["trainer"]["default_root_dir"] = folder
        cli = ArcFaceCLI({**settings, "seed_everything": seed})
        cli.trainer.callbacks.append(recorder)  # type: ignore[attr-defined]  # set where mypy does not look
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return recorder.epochs


def summarise(runs: list[list[dict[str, float]]]) -> list[dict[str, tuple[float, float]]]:
    """Return mean and standard deviation over the seeds for each epoch and measure."""

    def both(values: list[float]) -> tuple[float, float]:
        return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    return [{name: both([run[name] for run in epoch]) for name in MEASURES} for epoch in zip(*runs, strict=True)]


def markdown(summary: list[dict[str, tuple[float, float]]]) -> str:
    """Lay the original program's numbers and ours side by side, in percent."""
    lines = [
        "| epoch | original: train | test | with margin: train | test | predictions: train | test |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for number, epoch in enumerate(summary):
        cells = [f"{100 * ORIGINAL[split][number]:.2f}" for split in ("train", "test")]
        cells += [f"{100 * mean:.2f} ± {100 * spread:.2f}" for mean, spread in (epoch[name] for name in MEASURES)]
        lines.append(f"| {number + 1} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(summary: list[dict[str, tuple[float, float]]], path: Path) -> None:
    """Plot accuracy per epoch on both sets: as published, replayed with the margin, and of predictions."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"test": "test set", "train": "training set, passed over again"}
    for axes, (split, title) in zip(panels, titles.items(), strict=True):
        draw_split(axes, summary, split)
        axes.set_title(title, fontsize=10)
    panels[0].set_ylabel("accuracy (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


def draw_split(axes: Axes, summary: list[dict[str, tuple[float, float]]], split: str) -> None:
    """Plot one set's three curves; they differ in marker and stroke too, for print and for every eye."""
    epochs = range(1, len(summary) + 1)
    rows = (("accuracy", "predictions", "#0072B2", "o-"), ("margin_accuracy", "with margin", "#D55E00", "s--"))
    for name, label, color, style in rows:
        mean, spread = (
            [100 * value for value in values]
            for values in zip(*(epoch[f"{split}/{name}"] for epoch in summary), strict=True)
        )
        axes.errorbar(epochs, mean, spread, fmt=style, color=color, capsize=3, label=f"this project, {label}")
    printed = [100 * value for value in ORIGINAL[split][: len(summary)]]
    axes.plot(epochs, printed, "kx", markersize=7, label="original table", zorder=3)
    axes.set(xlabel="epoch", xticks=list(epochs))
    axes.grid(alpha=0.3)


def main() -> None:
    """Train, summarise, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max_epochs", type=int, default=10, choices=range(1, 11), metavar="1..10")
    parser.add_argument(
        "--dataset", default="mnist", choices=("mnist", "digits"), help="digits tries the script offline"
    )
    parser.add_argument("--out", type=Path, default=HERE / "figures", help="folder for the three files")
    options = parser.parse_args()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning reads a torch class that torch has deprecated.
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    options.out.mkdir(parents=True, exist_ok=True)
    runs: dict[int, list[dict[str, float]]] = {}
    for seed in options.seeds:  # written after each: an interrupted run has not been for nothing
        runs[seed] = replay(seed, options.max_epochs, options.dataset)
        summary = summarise([*runs.values()])
        (options.out / "reproduction.md").write_text(markdown(summary), encoding="utf-8")
        record = {"dataset": options.dataset, "threads": torch.get_num_threads(), "versions": versions(), "seeds": runs}
        (options.out / "reproduction.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        draw(summary, options.out / "reproduction.png")
    print(markdown(summary), end="")


if __name__ == "__main__":
    main()
