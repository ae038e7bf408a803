"""Labeled Faces in the Wild, view 2, by networks that are trained on LFW alone: ArcFace beside softmax.

python scripts/lfw.py --images lfw --pairs pairs.txt --orl orl_faces

Reads the official layout: NAME/NAME_0001.jpg, aligned, and the ten folds of pairs.txt. For each test fold a network is
trained on people in neither that fold nor the next; the next fold's pairs choose the threshold. Results are kept in
--json, and a run that is there already with the same recipe is not repeated.
"""

import argparse
import json
import logging
import statistics
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, LinearHead
from arcface_pl.data import ImageDataModule, LabelledImages
from arcface_pl.data.augment import PictureAugmentation
from arcface_pl.data.folders.pairs_file import ListedPair, read_pairs
from arcface_pl.evaluation.measure import Embedded, embed, evaluate
from arcface_pl.figures.style import SERIES, new_figure, save
from arcface_pl.heads import Head
from arcface_pl.metrics.functional import fold_accuracy, listed_pair_scores, verification_curve
from arcface_pl.preprocessing import Preprocessor, is_image, normalize_images
from arcface_pl.training.schedules import OneCycle

HEADS: dict[str, Any] = {"softmax": LinearHead, "ArcFace": partial(ArcFaceHead, margin=0.2, scale=24)}
WIDTH, DIMENSIONS = 32, 128
RECIPE = ("seed", "epochs", "image_size", "lr", "least", "precision")
RATES = torch.logspace(-3, 0, 61, dtype=torch.float64)  # false accept rates at which curves are kept
# LFW's results page, http://vis-www.cs.umass.edu/lfw/results.html, unrestricted training
PUBLISHED = {"LDML-MkNN, funneled": 0.8750, "LBP multishot, aligned": 0.8517, "Combined multishot, aligned": 0.8950}


class Faces(NamedTuple):
    """Gray images of people.

    Attributes:
        images: (N, 1, S, S) uint8 with labels (N,) int64.
        names: Names of the people, in label order.
        numbers: Index of each image by its file's name without suffix.
    """

    images: LabelledImages
    names: list[str]
    numbers: dict[str, int]


def read_faces(root: Path, size: int) -> Faces:
    """Read a folder with one folder per person."""
    files = sorted(path for path in root.glob("*/*") if is_image(path.name))
    if not files:
        raise SystemExit(f"{root}: got no images; expected one folder per person")
    reader = Preprocessor(size, 1, (0.5,), (0.5,))
    names = sorted({path.parent.name for path in files})
    labels = {name: label for label, name in enumerate(names)}
    images = torch.stack([reader.read(path) for path in files])
    found = LabelledImages(images, torch.tensor([labels[path.parent.name] for path in files]))
    return Faces(found, names, {f"{path.parent.name}/{path.stem}": number for number, path in enumerate(files)})


class People(ImageDataModule):
    """Images of the people that a network is trained on."""

    dataset_name = "lfw"
    in_channels = 1
    statistics = (0.5,), (0.5,)

    def __init__(self, batch_size: int = 64) -> None:
        change = PictureAugmentation(rotation=8.0, shift=2.0, zoom=0.08, flip=True, color=0.3)
        super().__init__(batch_size=batch_size, val_fraction=0.0, augmentation=change)
        self.images = LabelledImages(torch.empty(0), torch.empty(0))

    @classmethod
    def of(cls, faces: Faces, left_out: set[str], least: int) -> "People":
        """Take all people with at least ``least`` images, without those in ``left_out``."""
        counts = Counter(faces.images.labels.tolist())
        kept = [label for label, name in enumerate(faces.names) if counts[label] >= least and name not in left_out]
        new = torch.full((len(faces.names),), -1).scatter_(0, torch.tensor(kept), torch.arange(len(kept)))
        chosen = new[faces.images.labels] >= 0
        made = cls()
        made.images = LabelledImages(faces.images.images[chosen], new[faces.images.labels[chosen]])
        return made

    @property
    def all_class_names(self) -> list[str]:
        """Numbers in place of the names."""
        return [str(number) for number in range(1 + int(self.images.labels.max()))]

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return self.images.images.shape[-1]

    def load_parts(self) -> Any:
        """Use all images for training."""
        return self.split(self.images, self.images.select(torch.empty(0, dtype=torch.int64)))


def train(people: People, head: Any, options: argparse.Namespace) -> ArcFaceModule:
    """Train a network; both heads have the same recipe."""
    L.seed_everything(options.seed, verbose=False)
    backbone = FastCNN(DIMENSIONS, 1, people.image_size, width=WIDTH)
    optimizer = partial(torch.optim.Adam, lr=options.lr)
    made: Head = head(DIMENSIONS, people.num_classes)
    module = ArcFaceModule(backbone, made, optimizer, OneCycle)
    trainer = L.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        precision=options.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=people)
    return module.eval()


def folds_of(listing: Path, faces: Faces) -> list[list[ListedPair]]:
    """Return the pairs of each fold, all of whose images are there."""
    found = read_pairs(listing)
    missing = sorted({name for pair in found.pairs for name in _files(pair)} - faces.numbers.keys())
    if missing:
        raise SystemExit(f"{listing}: {len(missing):,} images are not in --images, such as {missing[0]}")
    folds: list[list[ListedPair]] = [[] for _ in range(int(found.folds.max()) + 1)]
    for pair, fold in zip(found.pairs, found.folds.tolist(), strict=True):
        folds[fold].append(pair)
    return folds


def _files(pair: ListedPair) -> list[str]:
    sides: Any = (pair.first, pair.second)
    return [f"{name}/{name}_{number:04d}" for name, number in sides]


def people_of(pairs: list[ListedPair]) -> set[str]:
    """Return the names of all people in pairs."""
    return {image[0] for pair in pairs for image in (pair.first, pair.second)}


def measure(module: ArcFaceModule, faces: Faces, chooses: list[ListedPair], tests: list[ListedPair]) -> dict[str, Any]:
    """Score the pairs of the test fold, with the threshold of the other one."""
    pairs = chooses + tests
    numbers = torch.tensor([[faces.numbers[name] for name in _files(pair)] for pair in pairs])
    used, places = numbers.unique(return_inverse=True)
    scores = listed_pair_scores(*embedded(module, faces.images.select(used)), *places.unbind(1))
    is_genuine = torch.tensor([pair.is_genuine for pair in pairs])
    is_test = torch.arange(len(pairs)) >= len(chooses)
    found = fold_accuracy(scores, is_genuine, is_test.long())
    curve = verification_curve(scores[is_test & is_genuine], scores[is_test & ~is_genuine])
    far, tar, _ = curve.roc()
    reached = tar[torch.searchsorted(far, RATES, right=True) - 1]
    choosing = fold_accuracy(scores[~is_test], is_genuine[~is_test], torch.arange(len(chooses)) % 2)
    return {
        "accuracy": float(found.accuracies[1]),
        "threshold": float(found.thresholds[1]),
        "eer": curve.equal_error_rate()[0],
        "accuracy_of_next_fold": choosing.mean,
        "tar": [round(each, 5) for each in reached.tolist()],
    }


@torch.no_grad()
def embedded(module: ArcFaceModule, part: LabelledImages) -> Embedded:
    """Embed images, each with its mirror image."""
    batches = zip(part.images.split(250), part.labels.split(250), strict=True)
    inputs = ((normalize_images(images, *People.statistics), labels) for images, labels in batches)
    return embed(module, inputs, flip=True)


def main() -> None:
    """Train and test on the folds; print a table and draw the curves."""
    options = parse()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    faces = read_faces(options.images, options.image_size)
    folds = folds_of(options.pairs, faces)
    orl = None if options.orl is None else read_faces(options.orl, options.image_size)
    if wrong := [fold for fold in options.folds if not 1 <= fold <= len(folds)]:
        raise SystemExit(f"--folds: got {wrong[0]}; expected 1 to {len(folds)}")
    recipe = {name: getattr(options, name) for name in RECIPE}
    found: list[dict[str, Any]] = json.loads(options.json.read_text()) if options.json.exists() else []
    rows = [row for row in found if recipe.items() <= row.items()]
    others = [row for row in found if row not in rows]
    done = {(row["fold"], row["head"]) for row in rows}
    for fold in options.folds:
        chooses, tests = folds[fold % len(folds)], folds[fold - 1]
        for head in options.heads:
            if (fold, head) in done:
                continue
            people = People.of(faces, people_of(chooses + tests), options.least)
            began = time.perf_counter()
            module = train(people, HEADS[head], options)
            row = {"fold": fold, "head": head, **recipe}
            row |= {"people": people.num_classes, "images": people.num_train}
            row |= {"seconds": round(time.perf_counter() - began, 1), **measure(module, faces, chooses, tests)}
            if orl is not None:
                scores = evaluate(embedded(module, orl.images), orl.names).scores
                row["orl_eer"] = scores["verification"]["eer"]
                row["orl_rank_1_of_1_enrolled"] = scores["identification"]["rank_1_of_1_enrolled"]
            rows.append(row)
            print({name: value for name, value in row.items() if name != "tar"}, flush=True)
            options.json.write_text("[\n" + ",\n".join(map(json.dumps, others + rows)) + "\n]\n")
    print(table(rows))
    if options.figure is not None:
        draw(rows, options.figure)


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table, a row per head."""
    lines = ["| trained with | folds | LFW accuracy | LFW EER | ORL EER | ORL rank 1 |", "|---|--:|--:|--:|--:|--:|"]
    for head in dict.fromkeys(row["head"] for row in rows):
        own = [row for row in rows if row["head"] == head]
        cells = [_mean(own, name) for name in ("accuracy", "eer", "orl_eer", "orl_rank_1_of_1_enrolled")]
        lines.append(f"| {head} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(rows: list[dict[str, Any]], name: str) -> str:
    """Return the mean in percent and its standard error."""
    values = [100 * row[name] for row in rows if name in row]
    if not values:
        return ""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.2f} ± {error:.2f}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the mean ROC over the test folds, and the accuracy of each fold."""
    figure = new_figure(11, 4.4)
    curves, dots = figure.subplots(1, 2)
    for style, head in zip(SERIES, dict.fromkeys(row["head"] for row in rows), strict=False):
        own = sorted((row for row in rows if row["head"] == head), key=lambda row: row["fold"])
        tar = 100 * torch.tensor([row["tar"] for row in own], dtype=torch.float64)
        line = {name: style[name] for name in ("color", "linestyle")}
        curves.plot(RATES, tar.mean(0), linewidth=1.8, label=head, **line)
        curves.fill_between(RATES, tar.amin(0), tar.amax(0), color=style["color"], alpha=0.15, linewidth=0)
        folds, values = [row["fold"] for row in own], [100 * row["accuracy"] for row in own]
        label = f"{head}: {_mean(own, 'accuracy')}"
        dots.plot(folds, values, markersize=8, label=label, **{**style, "linestyle": "none"})
    for style, (name, value) in zip(SERIES[3:], PUBLISHED.items(), strict=False):
        dots.axhline(100 * value, color=style["color"], linestyle=style["linestyle"], linewidth=1, label=name)
    curves.set(xscale="log", xlim=(1 / 300, 1), ylim=(0, 100), xlabel="false accept rate", ylabel="true accept rate, %")
    curves.set_title("LFW, view 2: mean and range over test folds", fontsize=11)
    dots.set(xlabel="test fold", ylabel="accuracy, %", xticks=sorted({row["fold"] for row in rows}))
    dots.set_title("accuracy, threshold from the next fold", fontsize=11)
    for axes in (curves, dots):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of NAME/NAME_0001.jpg, aligned faces")
    parser.add_argument("--pairs", type=Path, required=True, help="pairs.txt of view 2")
    parser.add_argument("--orl", type=Path, help="folder of the ORL faces, one folder per person")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(1, 11)), help="test folds (default: all)")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--image_size", type=int, default=56, help="pixels (default: 56)")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training images (default: 12)")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--least", type=int, default=2, help="images of a person to be trained on (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="bf16-mixed", help="of the network (default: bf16-mixed)")
    parser.add_argument("--json", type=Path, default=Path("lfw.json"), help="results (default: lfw.json)")
    parser.add_argument("--figure", type=Path, help="where to draw the curves")
    return parser.parse_args()


if __name__ == "__main__":
    main()
