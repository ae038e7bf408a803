"""Measure what a margin does for characters that are not trained on: heads x margins x scales x classes x seeds.

    python scripts/study/run.py --accelerator gpu --jobs 10 --budget 300

Each run trains a small network on characters of Omniglot's background alphabets, four of which are held out. Settings
are chosen on the characters of these four; scores are those of the 659 evaluation characters. The margin grid is
repeated with fewer trained characters, with sub-centers and with other widths of the embeddings, and the chosen
settings on all 964 background characters. Every finished run is a row of study.csv; started again, the study continues
with the missing runs. At the end it writes study.md and study.png.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from characters import CHOOSE_ON, IMAGE_SIZE, Characters, measure, quieten, train
from report import write_report
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rows import SCORES, Row, append_row, choose, read_rows

from arcface_pl import ArcFaceModule
from arcface_pl.backbones import FastCNN
from arcface_pl.data import OmniglotDataModule
from arcface_pl.data.classes import ClassSplit
from arcface_pl.data.parts import Parts
from arcface_pl.data.sources.catalog import BACKGROUND_ALPHABETS
from arcface_pl.evaluation.measure import embed
from arcface_pl.heads import HEADS
from arcface_pl.seeding import derive_seed
from arcface_pl.training.schedules import OneCycle

FIGURES = Path(__file__).parents[1] / "figures"
ALL = sum(BACKGROUND_ALPHABETS.values())
MOST = ALL - sum(BACKGROUND_ALPHABETS.get(name, 0) for name in CHOOSE_ON)
BATCH_SIZE, LEARNING_RATE = 256, 0.02

NO_MARGIN, NO_SCALE = 0.0, 1.0
SCALES = (8.0, 16.0, 32.0, 64.0)
Grid = dict[str, tuple[tuple[float, ...], tuple[float, ...]]]
GRID: Grid = {
    "LinearHead": ((NO_MARGIN,), (NO_SCALE,)),
    "NormalizedSoftmaxHead": ((NO_MARGIN,), SCALES),
    "ArcFaceHead": ((0.1, 0.2, 0.3, 0.5), SCALES),
    "CosFaceHead": ((0.1, 0.2, 0.35), SCALES),
    "SphereFaceHead": ((1.35, 1.7), (16.0, 32.0)),
    "CombinedMarginHead": ((0.1, 0.3), (16.0, 32.0)),
    "AdaFaceHead": ((0.2, 0.4), (16.0, 32.0)),
    "MagFaceHead": ((0.25, 0.45), (16.0, 32.0)),
    "ElasticFaceHead": ((0.3, 0.5), (16.0, 32.0)),
    "CurricularFaceHead": ((0.3, 0.5), (16.0, 32.0)),
}
MARGIN_ARGUMENT = {"CombinedMarginHead": "m2", "MagFaceHead": "min_margin"}
FEWER_CLASSES = (200, 50, 10)
FEWER: Grid = {name: GRID[name] for name in ("LinearHead", "NormalizedSoftmaxHead")}
FEWER["ArcFaceHead"] = ((0.1, 0.3, 0.5), SCALES)
WIDTHS = (32, 128, 512)
FEW_SCALES: Grid = {
    "LinearHead": ((NO_MARGIN,), (NO_SCALE,)),
    "NormalizedSoftmaxHead": ((NO_MARGIN,), (16.0, 32.0)),
    "ArcFaceHead": ((0.3, 0.5), (16.0, 32.0)),
}


class Run(NamedTuple):
    """One training, as a row of the CSV names it."""

    num_classes: int
    embedding_dim: int
    sub_centers: int
    head: str
    margin: float
    scale: float
    seed: int


class Options(NamedTuple):
    """What all runs share."""

    epochs: int
    accelerator: str


class DrawnCharacters(Characters):
    """A number of characters of the trained alphabets, drawn by the seed.

    Fewer characters are repeated so that an epoch has as many images as one of all of them.
    """

    def __init__(self, num_characters: int, **kwargs: Any) -> None:
        self.num_characters = num_characters
        super().__init__(**kwargs)

    @property
    def class_split(self) -> ClassSplit:
        """Labels of the drawn and of the held-out characters."""
        trained, held_out = super().class_split
        generator = torch.Generator().manual_seed(derive_seed(self._run_seed, "characters"))
        drawn = torch.randperm(len(trained), generator=generator)[: self.num_characters]
        return ClassSplit([trained[place] for place in drawn.sort().values.tolist()], held_out)

    def load_parts(self) -> Parts:
        """Repeat the training images."""
        parts = super().load_parts()
        count, wanted = len(parts.train.labels), len(super().class_split.trained)
        places = torch.arange(max(count, count * wanted // self.num_characters)) % count
        return parts._replace(train=parts.train.select(places))


def grid(cells: Grid, seed: int, num_classes: int, *, dim: int = 64, sub_centers: int = 1) -> Iterator[Run]:
    """Every head with every margin and scale, with one seed."""
    for head, (margins, scales) in cells.items():
        for margin in margins:
            yield from (Run(num_classes, dim, sub_centers, head, margin, scale, seed) for scale in scales)


def all_runs(num_seeds: int) -> Iterator[Run]:
    """Every cell with one seed, then every cell with the next, so that what there is can be compared at any time."""
    for seed in range(num_seeds):
        yield from grid(GRID, seed, MOST)
        for count in FEWER_CLASSES:
            yield from grid(FEWER, seed, count)
        yield from grid({"ArcFaceHead": FEW_SCALES["ArcFaceHead"]}, seed, MOST, sub_centers=3)
        for dim in WIDTHS:
            yield from grid(FEW_SCALES, seed, MOST, dim=dim)


def chosen_runs(num_seeds: int, rows: list[Row]) -> Iterator[Run]:
    """The settings that the held-out alphabets chose, on the whole background, which has no alphabets to choose by."""
    for seed in range(num_seeds):
        for head in FEWER:
            if found := choose(rows, head, num_classes=MOST):
                margin, scale = found
                yield Run(ALL, 64, 1, head, margin, scale, seed)


def make_head(run: Run) -> Any:
    """Build the head of a run."""
    arguments: dict[str, Any] = {} if run.head == "LinearHead" else {"scale": run.scale}
    if run.margin != NO_MARGIN:
        arguments[MARGIN_ARGUMENT.get(run.head, "margin")] = run.margin
    if run.sub_centers > 1:
        arguments["sub_centers"] = run.sub_centers
    return HEADS[run.head](run.embedding_dim, run.num_classes, **arguments)


def execute(run: Run, options: Options) -> Row:
    """Train once and measure; returns a row of the CSV."""
    L.seed_everything(run.seed, verbose=False)
    data = DrawnCharacters(
        run.num_classes,
        image_size=IMAGE_SIZE,
        batch_size=BATCH_SIZE,
        eval_batch_size=1000,
        rotation=10.0,
        shift=1.0,
        zoom=0.1,
        seed=run.seed,
        held_out_classes=[] if run.num_classes == ALL else list(CHOOSE_ON),
    )
    adam = partial(torch.optim.Adam, lr=LEARNING_RATE, betas=(0.9, 0.98), fused=True)
    module = ArcFaceModule(FastCNN(run.embedding_dim, image_size=IMAGE_SIZE), make_head(run), adam, OneCycle)
    device = train(module, data, options.epochs, options.accelerator).strategy.root_device
    backbone = module.backbone.eval().to(device)
    row = {**run._asdict(), "epochs": options.epochs}
    for split in ("val", "test"):
        found: dict[str, float] = {}  # the whole background leaves no alphabet to choose on
        if batches := data.held_out_dataloader(split):
            embeddings, labels = embed(backbone, batches, device)
            found = measure(embeddings.to(device), labels, data.one_shot_runs[split])
        row |= {f"{split}_{name}": found.get(name) for name in SCORES}
    return row


def work_off(runs: Iterable[Run], options: Options, path: Path, pool: Any, jobs: int, until: float) -> int:
    """Run what is missing, as many at a time as there are processes, until the time is over; returns the failures."""
    done = {tuple(row[name] for name in Run._fields) for row in read_rows(path, options.epochs)}
    missing = [run for run in runs if tuple(run) not in done]
    waiting, running, num_failed = iter(missing), dict[Future[Row], Run](), 0
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(f"{len(done)} runs there", total=len(missing))
        while True:
            while len(running) < jobs and time.monotonic() < until and (run := next(waiting, None)):
                running[pool.submit(execute, run, options)] = run
            if not running:
                return num_failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                if error := future.exception():  # one that diverged, say: the others continue
                    num_failed += 1
                    progress.console.print(f"{run}: {error}", markup=False)
                else:
                    append_row(path, future.result())
                progress.advance(task)


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=1800, help="seconds after which no run begins (default: 1800)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a process and thread each (default: 2)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each setting (default: 3)")
    parser.add_argument("--epochs", type=int, default=6, help="passes over the training images (default: 6)")
    parser.add_argument(
        "--accelerator", default="cpu", choices=("cpu", "gpu"), help="shared by all jobs (default: cpu)"
    )
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of study.csv, .md and .png")
    given = parser.parse_args()
    options, until = Options(given.epochs, given.accelerator), time.monotonic() + given.budget
    OmniglotDataModule().prepare_data()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "study.csv"
    context = multiprocessing.get_context("spawn")  # forked, a process would inherit torch's threads half-made
    with ProcessPoolExecutor(given.jobs, context, initializer=quieten) as pool:
        last_tenth = until - given.budget / 10  # is left to the runs that the others choose
        num_failed = work_off(all_runs(given.seeds), options, path, pool, given.jobs, last_tenth)
        runs = list(chosen_runs(given.seeds, read_rows(path, given.epochs)))
        num_failed += work_off(runs, options, path, pool, given.jobs, until)
    write_report(read_rows(path, given.epochs), given.out)
    if num_failed:
        sys.exit(f"{num_failed} runs failed")


if __name__ == "__main__":
    main()
