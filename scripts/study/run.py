"""Measure the effect of the margin on digits that are not trained on: heads x margins x scales x seeds.

    python scripts/study/run.py --budget 30 --processes 2

Each run trains a small network on MNIST without two digits and separates these two. Margin and scale are chosen on the
unseen digits' training images; scores are those of their test images. The chosen settings are then measured on the
other four leave-two-out splits, which were not used to choose them, and all of ArcFace's with half as many classes.
Every finished run is a row of study.csv; started again, the study continues with the missing runs. At the end it writes
study.md and study.png; settings and scores of each run are in TensorBoard's HParams tab (--log_dir).
"""

import argparse
import logging
import multiprocessing
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from report import write_report
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rows import Row, append_row, choose, read_rows

from arcface_pl import ArcFaceModule, MNISTDataModule
from arcface_pl.backbones import FastCNN
from arcface_pl.data import LabelledImages
from arcface_pl.evaluation.measure import FAR, Embedded, classification, embed
from arcface_pl.evaluation.protocols import PROTOCOLS
from arcface_pl.heads import HEADS
from arcface_pl.metrics.functional import all_pairs_curve, recall_at_k
from arcface_pl.training.schedules import OneCycle

FIGURES = Path(__file__).parents[1] / "figures"
CHOOSE_ON = "mnist-8-9"
CONFIRM_ON = ("mnist-0-1", "mnist-2-3", "mnist-4-5", "mnist-6-7")
CONFIRMED_HEADS = ("LinearHead", "NormalizedSoftmaxHead", "ArcFaceHead", "CosFaceHead")
EMBEDDING_DIM, BATCH_SIZE, LEARNING_RATE = 64, 128, 0.01

SCALES = (4.0, 8.0, 16.0, 30.0, 64.0)
NO_MARGIN = 0.0
GRID: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "LinearHead": ((NO_MARGIN,), (1.0,)),
    "NormalizedSoftmaxHead": ((NO_MARGIN,), SCALES),
    "ArcFaceHead": ((0.1, 0.3, 0.5), SCALES),
    "CosFaceHead": ((0.1, 0.2, 0.35), SCALES),
    "SphereFaceHead": ((1.35,), (8.0, 30.0)),
    "CombinedMarginHead": ((0.3,), (8.0, 30.0)),
    "AdaFaceHead": ((0.4,), (8.0, 30.0)),
    "MagFaceHead": ((0.45,), (8.0, 30.0)),
    "ElasticFaceHead": ((0.5,), (8.0, 30.0)),
    "CurricularFaceHead": ((0.5,), (8.0, 30.0)),
}
MARGIN_ARGUMENT = {"CombinedMarginHead": "m2", "MagFaceHead": "min_margin"}


class Run(NamedTuple):
    """One training, as a row of the CSV names it."""

    protocol: str
    num_classes: int
    head: str
    margin: float
    scale: float
    seed: int


class Options(NamedTuple):
    """What all runs share."""

    dataset: str
    epochs: int
    log_dir: str


class Resident(MNISTDataModule):
    """MNIST that a process reads once for all its runs."""

    def load(self) -> tuple[LabelledImages, LabelledImages]:
        """Read it, or remember it."""
        return _load(self.dataset)


@cache
def _load(dataset: str) -> tuple[LabelledImages, LabelledImages]:
    return MNISTDataModule(dataset=dataset).load()  # type: ignore[arg-type]  # the parser has checked it


def grid(num_seeds: int, rows: list[Row]) -> Iterator[Run]:
    """Every cell with one seed, then every cell with the next, so that what there is can be compared at any time."""
    for seed in range(num_seeds):
        for head, (margins, scales) in GRID.items():
            for margin in margins:
                yield from (Run(CHOOSE_ON, 8, head, margin, scale, seed) for scale in scales)


def confirmation(num_seeds: int, rows: list[Row]) -> Iterator[Run]:
    """The chosen margin and scale of the main heads on splits that had no part in choosing them."""
    for seed in range(num_seeds):
        for protocol in CONFIRM_ON:
            for head in CONFIRMED_HEADS:
                margin, scale = choose(rows, CHOOSE_ON, 8, head)
                yield Run(protocol, 8, head, margin, scale, seed)


def fewer_classes(num_seeds: int, rows: list[Row]) -> Iterator[Run]:
    """ArcFace's margins and scales again where only four digits are trained on."""
    for seed in range(num_seeds):
        for margin in GRID["ArcFaceHead"][0]:
            yield from (Run(CHOOSE_ON, 4, "ArcFaceHead", margin, scale, seed) for scale in SCALES)


def make_head(run: Run) -> Any:
    """Build the head of a run."""
    arguments: dict[str, Any] = {} if run.head == "LinearHead" else {"scale": run.scale}
    if run.margin != NO_MARGIN:
        arguments[MARGIN_ARGUMENT.get(run.head, "margin")] = run.margin
    return HEADS[run.head](EMBEDDING_DIM, run.num_classes, **arguments)


def execute(run: Run, options: Options) -> dict[str, Any]:
    """Train once and measure; returns a row of the CSV."""
    L.seed_everything(run.seed, verbose=False)
    held_out = PROTOCOLS[run.protocol].held_out
    trained = [label for label in range(10) if label not in held_out][: run.num_classes]
    data = Resident(
        dataset=options.dataset,  # type: ignore[arg-type]  # the parser has checked it
        batch_size=BATCH_SIZE,
        augment=False,
        classes=list(trained),
        held_out_classes=list(held_out),
    )
    adam = partial(torch.optim.Adam, lr=LEARNING_RATE, betas=(0.9, 0.98), fused=True)
    module = ArcFaceModule(FastCNN(EMBEDDING_DIM), make_head(run), adam, OneCycle)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=options.epochs,
        limit_val_batches=0,
        enable_checkpointing=False,
        log_every_n_steps=1000,
        use_distributed_sampler=False,
        **quiet,  # type: ignore[arg-type]
    )
    begun = time.process_time()
    trainer.fit(module, datamodule=data)
    seconds = time.process_time() - begun
    row = {**run._asdict(), "dataset": options.dataset, "epochs": options.epochs, **measure(module.eval(), data)}
    row["train_seconds"] = seconds
    log_hyperparameters(row, options)
    return row


def measure(module: ArcFaceModule, data: MNISTDataModule) -> dict[str, float]:
    """Accuracy on the trained digits and verification of the unseen ones, on both sides of the choice."""
    row = {}
    seen: dict[Any, Any] = {"val": data.val_dataloader(), "test": data.test_dataloader()}
    for split, batches in seen.items():
        row[f"{split}_accuracy"] = classification(module.head, *embed(module, batches))["accuracy"]
        unseen: Embedded = embed(module, data.held_out_dataloader(split))
        curve = all_pairs_curve(*unseen, far=FAR)
        row[f"{split}_eer"] = curve.equal_error_rate()[0]
        row[f"{split}_tar"] = curve.tar_at_far(1e-3)[0]
        row[f"{split}_recall"] = recall_at_k(*unseen)
    return row


def log_hyperparameters(row: dict[str, Any], options: Options) -> None:
    """Write a run's settings and scores for TensorBoard's HParams tab."""
    settings = {name: row[name] for name in Run._fields}
    scores = {f"final/{name.replace('_', '/', 1)}": value for name, value in row.items() if name not in settings}
    numbers = {name: value for name, value in scores.items() if isinstance(value, float)}
    version = "_".join(map(str, settings.values()))
    logger = TensorBoardLogger(options.log_dir, name="", version=version, default_hp_metric=False)
    logger.log_hyperparams(settings, numbers)
    logger.finalize("success")


def quieten() -> None:
    """Set a process up: one thread, and none of Lightning's remarks."""
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Lightning reads a torch class that torch has deprecated.
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")


def work_off(runs: Iterable[Run], options: Options, path: Path, submit: Any, processes: int, until: float) -> None:
    """Run what is missing, as many at a time as there are processes, until the time is over."""
    done = {tuple(row[name] for name in Run._fields) for row in read_rows(path, options.dataset, options.epochs)}
    missing = [run for run in runs if tuple(run) not in done]
    waiting, running = iter(missing), set[Future[dict[str, Any]]]()
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(f"{len(done)} runs there", total=len(missing))
        while True:
            while len(running) < processes and time.monotonic() < until and (run := next(waiting, None)):
                running.add(submit(execute, run, options))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for row in (future.result() for future in finished):
                append_row(path, row)
                progress.advance(task)


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=30.0, help="minutes after which no run is begun (default: 30)")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, a thread each (default: 2)")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each setting (default: 5)")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the training images (default: 1)")
    parser.add_argument("--dataset", default="mnist", choices=("mnist", "digits"), help="digits tries it offline")
    parser.add_argument("--log_dir", default="lightning_logs/study", help="for TensorBoard")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of study.csv, .md and .png")
    given = parser.parse_args()
    options = Options(given.dataset, given.epochs, given.log_dir)
    until = time.monotonic() + 60 * given.budget
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "study.csv"
    context = multiprocessing.get_context("spawn")  # forked, a process would inherit torch's threads half-made
    with ProcessPoolExecutor(given.processes, context, initializer=quieten) as pool:
        for stage in (grid, confirmation, fewer_classes):
            if time.monotonic() < until:
                runs = stage(given.seeds, read_rows(path, options.dataset, options.epochs))
                work_off(runs, options, path, pool.submit, given.processes, until)
    write_report(read_rows(path, options.dataset, options.epochs), given.out)


if __name__ == "__main__":
    main()
