"""Replay the source document and measure it both ways: with the margin left on the true class, and honestly.

    python scripts/reproduce.py --seeds 0 1 2

Trains scripts/configs/source.yaml once a seed and writes reproduction.md, reproduction.json and reproduction.png.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import lightning as L
import torch
from matplotlib.figure import Figure

from arcface_pl.cli.config import BASE_CONFIG, merge, read_config
from arcface_pl.cli.settings import ArcFaceCLI
from arcface_pl.data import BatchLoader

HERE = Path(__file__).parent
# Train and test accuracy that the document prints after each epoch.
DOCUMENT_TRAIN = (0.9175, 0.9408, 0.9479, 0.9480, 0.9530, 0.9630, 0.9687, 0.9623, 0.9714, 0.9704)
DOCUMENT_TEST = (0.9159, 0.9352, 0.9357, 0.9387, 0.9440, 0.9467, 0.9502, 0.9465, 0.9539, 0.9491)
MEASURES = ("train/margin_accuracy", "test/margin_accuracy", "train/accuracy", "test/accuracy")


class BothWays(L.Callback):
    """Keeps all four accuracies of every epoch; those on the training set cost a second pass, as in the document."""

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


def replay(seed: int, max_epochs: int, dataset: str) -> list[dict[str, float]]:
    """Train the source config with one seed; returns the four accuracies of each epoch."""
    quiet = {"logger": False, "callbacks": [], "enable_checkpointing": False, "enable_progress_bar": False}
    settings = merge(read_config(BASE_CONFIG), read_config(HERE / "configs" / "source.yaml"))
    settings["trainer"].update(quiet, accelerator="cpu", max_epochs=max_epochs)
    settings["data"]["init_args"]["dataset"] = dataset
    cli = ArcFaceCLI({**settings, "seed_everything": seed})
    recorder = BothWays()
    cli.trainer.callbacks.append(recorder)  # type: ignore[attr-defined]  # set where mypy does not look
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return recorder.epochs


def summarise(runs: list[list[dict[str, float]]]) -> list[dict[str, tuple[float, float]]]:
    """Return mean and standard deviation over the seeds for each epoch and measure."""

    def both(values: list[float]) -> tuple[float, float]:
        return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    return [{name: both([run[name] for run in epoch]) for name in MEASURES} for epoch in zip(*runs, strict=True)]


def markdown(summary: list[dict[str, tuple[float, float]]]) -> str:
    """Lay the document's numbers and ours side by side, in per cent."""
    lines = [
        "| epoch | document: train | test | its way: train | test | honest: train | test |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for number, epoch in enumerate(summary):
        cells = [f"{100 * DOCUMENT_TRAIN[number]:.2f}", f"{100 * DOCUMENT_TEST[number]:.2f}"]
        cells += [f"{100 * mean:.2f} ± {100 * spread:.2f}" for mean, spread in (epoch[name] for name in MEASURES)]
        lines.append(f"| {number + 1} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(summary: list[dict[str, tuple[float, float]]], path: Path) -> None:
    """Plot test accuracy an epoch: the document's, ours its way, ours honest."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs = range(1, len(summary) + 1)
    rows = (("test/accuracy", "honest", "#0072B2", "o"), ("test/margin_accuracy", "its way", "#D55E00", "s"))
    for name, label, color, marker in rows:
        mean, spread = zip(*(epoch[name] for epoch in summary), strict=True)
        axes.errorbar(
            epochs,
            [100 * value for value in mean],
            [100 * value for value in spread],
            label=f"this project, {label}",
            color=color,
            marker=marker,
            capsize=3,
        )
    printed = [100 * value for value in DOCUMENT_TEST[: len(summary)]]
    axes.plot(epochs, printed, "k--x", label="the document's table")
    axes.set(xlabel="epoch", ylabel="test accuracy (%)", xticks=list(epochs))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


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
    runs = [replay(seed, options.max_epochs, options.dataset) for seed in options.seeds]
    summary = summarise(runs)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "reproduction.md").write_text(markdown(summary), encoding="utf-8")
    record = {"dataset": options.dataset, "threads": torch.get_num_threads(), "torch": torch.__version__}
    record |= {"seeds": dict(zip(options.seeds, runs, strict=True))}
    (options.out / "reproduction.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(summary, options.out / "reproduction.png")
    print(markdown(summary), end="")


if __name__ == "__main__":
    main()
