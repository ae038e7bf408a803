"""Labeled Faces in the Wild, view 2, by networks that are trained on LFW alone: margin heads beside softmax.

    python scripts/faces/lfw.py choose --images lfw --pairs pairs.txt --json lfw_choice.json
    python scripts/faces/lfw.py test --images lfw --pairs pairs.txt --orl orl_faces --choice lfw_choice.json

Reads the official layout: NAME/NAME_0001.jpg, aligned, and the ten folds of pairs.txt. ``choose`` compares settings on
the pairs of fold 2, by networks that saw nobody of folds 1 and 2, the same number of stages for every head. ``test``
trains, for each test fold, on people in neither that fold nor the next; the next fold's pairs choose the threshold.
Every finished run is added to --json; started again, the script continues with the missing runs.
"""

import argparse
import json
import logging
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lfw_report import Rows, draw, table
from view2 import Faces, People, embedded, folds_of, measure, measure_choice, people_of, read_faces

from arcface_pl import ArcFaceHead, ArcFaceModule, CosFaceHead, FastCNN, LinearHead, NormalizedSoftmaxHead, SmallResNet
from arcface_pl.data.folders.pairs_file import ListedPair
from arcface_pl.evaluation.measure import evaluate
from arcface_pl.heads import Head
from arcface_pl.training.schedules import OneCycle

DIMENSIONS, BATCH_SIZE = 128, 128
CHOSEN_ON = 2
"""Fold whose pairs choose the settings."""
NETWORKS: dict[str, Any] = {
    "FastCNN, width 32": partial(FastCNN, width=32),
    "SmallResNet, width 64": partial(SmallResNet, width=64, num_blocks=2, dropout=0.2),
}


class Recipe(NamedTuple):
    """Settings of a training.

    Attributes:
        head: softmax, ArcFace or CosFace.
        network: A name of `NETWORKS`.
        epochs: Passes over the training images.
        lr: Peak learning rate.
        scale: Factor of the cosines; 0 for a linear layer with bias instead, as plain softmax has.
        margin: Of the head, in radians or cosine.
    """

    head: str
    network: str
    epochs: int
    lr: float
    scale: float
    margin: float


START = {
    "softmax": Recipe("softmax", "FastCNN, width 32", 24, 3e-3, 24.0, 0.0),
    "ArcFace": Recipe("ArcFace", "FastCNN, width 32", 24, 3e-3, 24.0, 0.2),
    "CosFace": Recipe("CosFace", "FastCNN, width 32", 24, 3e-3, 24.0, 0.15),
}
CHOSEN = START | {
    "softmax": START["softmax"]._replace(epochs=16, scale=8.0),
    "ArcFace": START["ArcFace"]._replace(epochs=40),
}
"""What ``choose`` found, which ``test`` takes without --choice; CosFace was not tried."""
EPOCHS = (16, 40)
LOSSES = {
    "softmax": [(scale, 0.0) for scale in (0.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0)],
    "ArcFace": [(scale, margin) for scale in (16.0, 24.0, 32.0) for margin in (0.1, 0.2, 0.3)],
    "CosFace": [(scale, margin) for scale in (16.0, 24.0, 32.0) for margin in (0.1, 0.2, 0.3)],
}


def networks(recipe: Recipe) -> list[Recipe]:
    """Every network with every number of epochs."""
    return [recipe._replace(network=name, epochs=epochs) for epochs in EPOCHS for name in NETWORKS]


def losses(recipe: Recipe) -> list[Recipe]:
    """Scales and margins."""
    return [recipe._replace(scale=scale, margin=margin) for scale, margin in LOSSES[recipe.head]]


def rates(recipe: Recipe) -> list[Recipe]:
    """Twice and half the learning rate."""
    return [recipe._replace(lr=recipe.lr * factor) for factor in (1.0, 2.0, 0.5)]


Stage = Callable[[Recipe], list[Recipe]]
STAGES: tuple[Stage, ...] = (networks, losses, rates)


def recipe_of(row: dict[str, Any]) -> Recipe:
    """Return the recipe of a row of the results."""
    return Recipe(*(row[name] for name in Recipe._fields))


def best(rows: Rows, recipes: list[Recipe], otherwise: Recipe) -> Recipe:
    """Return the recipe of the lowest mean error over the seeds, among those that were run with most seeds."""
    errors: dict[Recipe, list[float]] = {}
    for row in rows:
        if (recipe := recipe_of(row)) in recipes:
            errors.setdefault(recipe, []).append(row["choice_eer"])
    most = max(map(len, errors.values()), default=0)
    means = {recipe: statistics.mean(values) for recipe, values in errors.items() if len(values) == most}
    return min(means, key=lambda recipe: means[recipe], default=otherwise)


def settle(rows: Rows, head: str, stages: Sequence[Stage]) -> Recipe:
    """Return what the stages choose, each starting from the choice of the one before."""
    recipe = START[head]
    for stage in stages:
        recipe = best(rows, stage(recipe), recipe)
    return recipe


class Run(NamedTuple):
    """One training. ``fold`` is the test fold, or 0 to score the fold that chooses settings."""

    fold: int
    seed: int
    recipe: Recipe


class Shared(NamedTuple):
    """What all runs share."""

    faces: Faces
    folds: list[list[ListedPair]]
    orl: Faces | None
    accelerator: str
    common: dict[str, Any]


def train(people: People, recipe: Recipe, seed: int, shared: Shared) -> ArcFaceModule:
    """Train a network."""
    L.seed_everything(seed, verbose=False)
    backbone = NETWORKS[recipe.network](DIMENSIONS, 1, people.image_size)
    head = make_head(recipe, people.num_classes)
    module = ArcFaceModule(backbone, head, partial(torch.optim.Adam, lr=recipe.lr, fused=True), OneCycle)
    trainer = L.Trainer(
        max_epochs=recipe.epochs,
        accelerator=shared.accelerator,
        devices=1,
        precision=shared.common["precision"],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=people)
    return module.eval()


def make_head(recipe: Recipe, num_people: int) -> Head:
    """Build the head of a recipe."""
    if recipe.head == "softmax":
        with_cosines = partial(NormalizedSoftmaxHead, scale=recipe.scale)
        return with_cosines(DIMENSIONS, num_people) if recipe.scale else LinearHead(DIMENSIONS, num_people)
    kind = {"ArcFace": ArcFaceHead, "CosFace": CosFaceHead}[recipe.head]
    return kind(DIMENSIONS, num_people, margin=recipe.margin, scale=recipe.scale)


def execute(run: Run, shared: Shared | None = None) -> dict[str, Any]:
    """Train once and measure; returns a row of the results."""
    shared = shared or _shared[0]
    fold, others = run.fold or CHOSEN_ON - 1, len(shared.folds)
    tests, chooses = shared.folds[fold - 1], shared.folds[fold % others]
    people = People.of(shared.faces, people_of(chooses + tests), shared.common["least"], BATCH_SIZE)
    row: dict[str, Any] = {"fold": run.fold, "seed": run.seed, **run.recipe._asdict()}
    row |= shared.common | {"people": people.num_classes, "images": len(people.images.labels)}
    began, began_cpu = time.perf_counter(), time.process_time()
    module = train(people, run.recipe, run.seed, shared)
    row["seconds"] = round(time.perf_counter() - began, 1)
    row["cpu_seconds"] = round(time.process_time() - began_cpu, 1)
    row["device"] = torch.cuda.get_device_name() if shared.accelerator in ("gpu", "cuda") else "cpu"
    network = module.to("cpu" if row["device"] == "cpu" else "cuda")
    if not run.fold:
        return row | measure_choice(network, shared.faces, chooses)
    row |= measure(network, shared.faces, chooses, tests)
    if shared.orl is not None:
        scores = evaluate(embedded(network, shared.orl.images), shared.orl.names).scores
        row["orl_eer"] = scores["verification"]["eer"]
        row["orl_rank_1_of_1_enrolled"] = scores["identification"]["rank_1_of_1_enrolled"]
    return row


_shared: list[Shared] = []  # of a worker process


def prepare(shared: Shared | None = None) -> None:
    """Set a process up: one thread, and none of Lightning's remarks."""
    if shared is not None:
        _shared[:] = [shared]
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


class Results:
    """The rows of a file, which grows with every run.

    Args:
        path: The JSON file; it need not exist.
        common: What is alike in all rows of interest; others are kept in the file.
    """

    def __init__(self, path: Path, common: dict[str, Any]) -> None:
        self.path, self.common = path, common
        found: Rows = json.loads(path.read_text()) if path.exists() else []
        self.rows = [row for row in found if common.items() <= row.items()]
        self.others = [row for row in found if row not in self.rows]

    def add(self, row: dict[str, Any]) -> None:
        """Add a row and write the file."""
        self.rows.append(row)
        print({name: value for name, value in row.items() if name != "tar"}, flush=True)
        written = self.path.with_suffix(".part")
        written.write_text("[\n" + ",\n".join(map(json.dumps, self.others + self.rows)) + "\n]\n")
        written.replace(self.path)

    def of(self, runs: list[Run]) -> dict[Run, dict[str, Any]]:
        """Return the rows of the runs that are there."""
        rows = {Run(row["fold"], row["seed"], recipe_of(row)): row for row in self.rows}
        return {run: rows[run] for run in runs if run in rows}


def work_off(runs: list[Run], results: Results, shared: Shared, pool: Any, options: argparse.Namespace) -> None:
    """Run what is missing, until the time is over."""
    there = results.of(runs)
    waiting: Iterator[Run] = iter([run for run in dict.fromkeys(runs) if run not in there])
    running: set[Future[dict[str, Any]]] = set()
    while True:
        while len(running) < options.jobs and time.monotonic() < options.until and (run := next(waiting, None)):
            if pool is None:
                results.add(execute(run, shared))
            else:
                running.add(pool.submit(execute, run))
        if not running:
            return
        finished, running = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            results.add(future.result())


def main() -> None:
    """Train and test on the folds; print a table and draw the curves."""
    options = parse()
    options.until = time.monotonic() + options.budget
    prepare()
    faces = read_faces(options.images, options.image_size)
    folds = folds_of(options.pairs, faces)
    orl = None if options.orl is None else read_faces(options.orl, options.image_size)
    tested = options.folds or list(range(1, len(folds) + 1))
    if wrong := [fold for fold in tested if not 1 <= fold <= len(folds)]:
        raise SystemExit(f"--folds: got {wrong[0]}; expected 1 to {len(folds)}")
    common = {
        "batch_size": BATCH_SIZE,
        **{name: getattr(options, name) for name in ("image_size", "least", "precision")},
    }
    shared = Shared(faces, folds, orl, options.accelerator, common)
    results = Results(options.json, common)
    pool = None
    if options.jobs > 1:  # forked, a process would inherit torch's threads half-made
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(options.jobs, context, initializer=prepare, initargs=(shared,))
    if options.task == "choose":
        for number, stage in enumerate(STAGES):
            settled = [settle(results.rows, head, STAGES[:number]) for head in options.heads]
            recipes = [recipe for each in settled for recipe in stage(each)]
            runs = [Run(0, seed, recipe) for seed in options.seeds for recipe in recipes]
            work_off(runs, results, shared, pool, options)
        for head in options.heads:
            print(settle(results.rows, head, STAGES))
        return
    if options.choice is None:
        recipes = [CHOSEN[head] for head in options.heads]
    else:
        recipes = [settle(Results(options.choice, common).rows, head, STAGES) for head in options.heads]
    runs = [Run(fold, seed, recipe) for seed in options.seeds for fold in tested for recipe in recipes]
    work_off(runs, results, shared, pool, options)
    rows = list(results.of(runs).values())
    print(table(rows, CHOSEN_ON))
    if options.figure is not None:
        draw(rows, options.figure)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("choose", "test"))
    parser.add_argument("--images", type=Path, required=True, help="folder of NAME/NAME_0001.jpg, aligned faces")
    parser.add_argument("--pairs", type=Path, required=True, help="pairs.txt of view 2")
    parser.add_argument("--orl", type=Path, help="folder of the ORL faces, one folder per person")
    parser.add_argument("--choice", type=Path, help="file of choose; default: the recipes in this script")
    parser.add_argument("--folds", type=int, nargs="+", help="test folds (default: all)")
    parser.add_argument("--heads", nargs="+", choices=START, default=["softmax", "ArcFace"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="runs of each setting (default: 0)")
    parser.add_argument("--image_size", type=int, default=64, help="pixels (default: 64)")
    parser.add_argument("--least", type=int, default=2, help="images of a person to be trained on (default: 2)")
    parser.add_argument("--accelerator", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--precision", default="bf16-mixed", help="of the network (default: bf16-mixed)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, a thread each (default: 1)")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no run is begun")
    parser.add_argument("--json", type=Path, default=Path("lfw.json"), help="results (default: lfw.json)")
    parser.add_argument("--figure", type=Path, help="where to draw the curves")
    return parser.parse_args()


if __name__ == "__main__":
    main()
