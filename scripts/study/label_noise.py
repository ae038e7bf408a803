"""Plant wrong labels, and count how many are found at the top of the list of suspicious images.

    python scripts/study/label_noise.py mnist:1 omniglot:8 digits:40

For each data set and seed, 5% of the training labels are changed to another class at random. The list is that of
``arcface-pl inspect``: by the network that trained on these labels, and with ``--folds 2``. Nothing is chosen by the
planted labels. Writes label_noise.csv, label_noise.md and label_noise.png.
"""

import argparse
import csv
import logging
import statistics
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN
from arcface_pl.data import ImageDataModule, LabelledImages, MNISTDataModule, OmniglotDataModule
from arcface_pl.data.parts import Parts
from arcface_pl.evaluation.audit import AuditedImages, cross_fit
from arcface_pl.evaluation.label_noise import label_angles
from arcface_pl.heads import Head
from arcface_pl.training.schedules import OneCycle

FIGURES = Path(__file__).parents[1] / "figures"
NOISE, GOAL, LOOKED_AT = 0.05, 0.9, 0.07
SHARES = [number / 200 for number in range(41)]  # of the list: 0 to 20%
NAMES = ("mnist", "omniglot", "digits")
WAYS = {0: "its own network", 2: "--folds 2"}
STYLES = {0: ("#D55E00", "--"), 2: ("#0072B2", "-")}


class Planted(ImageDataModule):
    """Training images in memory, with the labels that are given."""

    in_channels, image_size = 1, 28
    dataset_name = property(lambda self: self.name)
    all_class_names = property(lambda self: self.names)

    def __init__(self, name: str, images: LabelledImages, num_classes: int, **kwargs: Any) -> None:
        self.name, self.given, self.names = name, images, [str(number) for number in range(num_classes)]
        super().__init__(val_fraction=0.0, **kwargs)

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of all pixels."""
        pixels = self.given.images.float() / 255
        return (float(pixels.mean()),), (float(pixels.std()),)

    def load_parts(self) -> Parts:
        """Train on all images; there is no test set."""
        return self.split(self.given, self.given.select(torch.arange(0)))


def load(name: str) -> LabelledImages:
    """Return the training images of a data set at 28 x 28: Omniglot's 964 background characters, MNIST, the digits."""
    kind: Any = name  # the parser has checked it
    data = OmniglotDataModule(image_size=28) if kind == "omniglot" else MNISTDataModule(dataset=kind, val_fraction=0.0)
    data.prepare_data()
    train = data.load_parts().train
    assert isinstance(train, LabelledImages)
    return train


def plant(labels: Tensor, num_classes: int, seed: int) -> Tensor:
    """Return labels of which a share of `NOISE` is another class, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(NOISE * len(labels))]
    planted = labels.clone()
    planted[chosen] += torch.randint(1, num_classes, (len(chosen),), generator=generator)
    return planted % num_classes


def fit(data: ImageDataModule, *, epochs: int, seed: int) -> tuple[nn.Module, Head]:
    """Train a new network."""
    L.seed_everything(seed, verbose=False)
    adam = partial(torch.optim.Adam, lr=0.01, betas=(0.9, 0.98), fused=True)
    head = ArcFaceHead(64, data.num_classes, margin=0.3)
    module = ArcFaceModule(FastCNN(64), head, adam, partial(OneCycle, warmup_fraction=0.1))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        **quiet,  # type: ignore[arg-type]
    )
    trainer.fit(module, datamodule=data)
    return module.backbone.eval(), module.head.eval()


def found_shares(ranked: Tensor, is_wrong: Tensor) -> list[float]:
    """Return the share of the planted labels among the first images of the list, for each of `SHARES`."""
    found = is_wrong[ranked].double().cumsum(0) / is_wrong.sum()
    ends = [round(share * len(ranked)) for share in SHARES]
    return [float(found[end - 1]) if end else 0.0 for end in ends]


def measure(name: str, images: LabelledImages, epochs: int, seed: int) -> list[dict[str, Any]]:
    """Return rows of the CSV for one data set and seed."""
    num_classes = int(images.labels.max()) + 1
    labels = plant(images.labels, num_classes, seed)
    data = Planted(name, LabelledImages(images.images, labels), num_classes, batch_size=256 if epochs == 1 else 128)
    data.setup("fit")
    audited = AuditedImages.of(data, ["train"])
    train = partial(fit, epochs=epochs, seed=seed)
    backbone, head = train(data)
    rows = []
    for folds in WAYS:
        if folds:
            angles = cross_fit(data, audited, folds, train, seed=seed)
        else:
            angles = label_angles(audited.embed(backbone), labels, head)
        found = found_shares(angles.ranked(), labels != images.labels)
        rows += [
            {"data": name, "folds": folds, "seed": seed, "share": share, "found": value}
            for share, value in zip(SHARES, found, strict=True)
        ]
        print(f"{name}, seed {seed}, {WAYS[folds]}: {found[SHARES.index(LOOKED_AT)]:.2%}", flush=True)
    return rows


def spread(rows: list[dict[str, Any]], name: str, folds: int, share: float) -> tuple[float, float]:
    """Return mean and sample standard deviation over the seeds."""
    values = [row["found"] for row in rows if (row["data"], row["folds"], row["share"]) == (name, folds, share)]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def write_report(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write the table, the numbers and the curves."""
    with (folder / "label_noise.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    names = list(dict.fromkeys(row["data"] for row in rows))
    shown = (0.05, 0.06, LOOKED_AT, 0.1)
    lines = [
        "| wrong labels found, % | " + " | ".join(f"in the first {100 * share:g}%" for share in shown) + " |",
        "|---|" + "--:|" * len(shown),
    ]
    figure = Figure(figsize=(4.6 * len(names), 3.8), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axes, name in zip(panels, names, strict=True):
        for folds, way in WAYS.items():
            both = [spread(rows, name, folds, share) for share in SHARES]
            mean, deviation = ([100 * each[part] for each in both] for part in (0, 1))
            color, line = STYLES[folds]
            percent = [100 * share for share in SHARES]
            axes.plot(percent, mean, line, color=color, label=way)
            low, high = ([m + sign * d for m, d in zip(mean, deviation, strict=True)] for sign in (-1, 1))
            axes.fill_between(percent, low, high, color=color, alpha=0.25)
            cells = (spread(rows, name, folds, share) for share in shown)
            lines.append(f"| {name}, {way} | " + " | ".join(f"{100 * m:.1f} ± {100 * d:.1f}" for m, d in cells) + " |")
        axes.plot(100 * LOOKED_AT, 100 * GOAL, "k+", markersize=11, label="goal: 90% in the first 7%")
        axes.axvline(100 * NOISE, color="0.6", linestyle=":", label="5%: as many as there are")
        axes.set(xlabel="share of the list looked at (%)", title=name, xlim=(0, 20), ylim=(0, 101))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("share of the wrong labels found (%)")
    panels[0].legend(frameon=False, loc="lower right")
    (folder / "label_noise.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    figure.savefig(folder / "label_noise.png", dpi=110)


def name_and_epochs(text: str) -> tuple[str, int]:
    """Take NAME:EPOCHS apart."""
    name, _, epochs = text.partition(":")
    if name not in NAMES or not epochs.isdecimal() or not int(epochs):
        raise argparse.ArgumentTypeError(f"got {text}; expected {', '.join(NAMES)}, with a number, such as mnist:1")
    return name, int(epochs)


def main() -> None:
    """Measure each data set and seed, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    accepted = "mnist, omniglot or digits, with the epochs to train (default: mnist:1 digits:40)"
    default = [("mnist", 1), ("digits", 40)]
    parser.add_argument("sets", nargs="*", type=name_and_epochs, metavar="NAME:EPOCHS", default=default, help=accepted)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=FIGURES)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # Lightning's remarks on loaders
    sets = dict(options.sets)
    loaded = {name: load(name) for name in sets}
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:  # written after each: what is interrupted was not for nothing
        for name, epochs in sets.items():
            rows += measure(name, loaded[name], epochs, seed)
            write_report(rows, options.out)
    print((options.out / "label_noise.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
