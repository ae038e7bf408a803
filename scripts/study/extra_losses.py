"""Measure what further losses, batches of pairs and a teacher bring for characters that are not trained on.

    python scripts/study/extra_losses.py --accelerator gpu --jobs 4 --budget 130

Each run trains a small network (FastCNN, width 16) on the 830 characters of Omniglot that omniglot.yaml trains
on, with an ArcFace head alone or with what its way adds, and measures it on the 659 evaluation characters. Weights of
the losses and other settings are fixed beforehand, the same for all seeds. Every finished run is a row of
extra_losses.csv, in the order of the seeds; started again, the missing ones follow, students where their teacher's
checkpoint is in the folder --teachers. The table is extra_losses.md.
"""

import argparse
import csv
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from characters import CHOOSE_ON, IMAGE_SIZE, Characters, measure, quieten, train
from pytorch_metric_learning import distances, losses, miners
from rows import append_row
from torch import Tensor, nn

from arcface_pl import ArcFaceHead, ArcFaceModule, ExtraLoss, FastCNN, OmniglotDataModule, SmallResNet
from arcface_pl.evaluation.measure import embed
from arcface_pl.training.schedules import OneCycle

FIGURES = Path(__file__).parents[1] / "figures"
WIDTH = 64
SCORES = {
    "eer": "equal error rate",
    "recall": "recall@1",
    "one_enrolled": "identified, 1 enrolled",
    "one_shot": "one-shot runs",
}


class CenterPull(nn.Module):
    """Half the mean squared distance of unit embeddings to the mean of their class in the batch.

    Center loss (Wen et al., ECCV 2016) without centers of its own: those of a batch of pairs.
    """

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return a scalar for embeddings (B, D) and labels (B,)."""
        unit = nn.functional.normalize(embeddings)
        same = (labels[:, None] == labels).to(unit.dtype)
        means = same @ unit / same.sum(dim=1, keepdim=True)
        return 0.5 * (unit - means).square().sum(dim=1).mean()


def triplets() -> ExtraLoss:
    """Triplets of cosines, those that a margin of 0.2 makes hard."""
    cosine = distances.CosineSimilarity()
    loss = losses.TripletMarginLoss(margin=0.2, distance=cosine)
    return ExtraLoss(loss, 1.0, miners.TripletMarginMiner(0.2, "semihard", distance=distances.CosineSimilarity()))


class Way(NamedTuple):
    """What a run adds to the margin head."""

    images_per_class: int | None = None
    losses: tuple[Any, ...] = ()
    taught: bool = False


WAYS = {
    "margin head alone": Way(),
    "batches of pairs": Way(4),
    "pairs, triplets with a miner": Way(4, (triplets,)),
    "pairs, supervised contrastive": Way(4, (lambda: ExtraLoss(losses.SupConLoss(0.1), 1.0),)),
    "pairs, multi-similarity": Way(4, (lambda: ExtraLoss(losses.MultiSimilarityLoss(), 1.0),)),
    "pairs, pulled to the class mean": Way(4, (lambda: ExtraLoss(CenterPull(), 1.0),)),
    "proxy anchor": Way(None, (lambda: ExtraLoss(losses.ProxyAnchorLoss(830, WIDTH), 0.1),)),
    "distilled from a teacher": Way(None, (), taught=True),
    "the teacher": Way(),
}


class Options(NamedTuple):
    """What all runs share."""

    epochs: int
    accelerator: str
    teachers: str
    width: int


class Run(NamedTuple):
    """One training, as a row of the CSV names it."""

    way: str
    seed: int


def teacher_of(seed: int, options: Options) -> Path:
    """Return where the teacher of a seed is kept."""
    return Path(options.teachers) / f"teacher_{seed}.ckpt"


def make_module(run: Run, options: Options) -> ArcFaceModule:
    """Build the network of a run: omniglot.yaml's as a teacher, and a small one otherwise."""
    if run.way == "the teacher":
        backbone: nn.Module = SmallResNet(128, width=80, num_blocks=2, image_size=IMAGE_SIZE)
        adam = partial(torch.optim.AdamW, lr=0.004, betas=(0.9, 0.99), weight_decay=0.02, fused=True)
        return ArcFaceModule(backbone, ArcFaceHead(128, 830, margin=0.3, scale=24.0), adam, OneCycle)
    way = WAYS[run.way]
    teacher = teacher_of(run.seed, options) if way.taught else None
    return ArcFaceModule(
        FastCNN(WIDTH, width=options.width, image_size=IMAGE_SIZE),
        ArcFaceHead(WIDTH, 830, margin=0.3, scale=24.0),
        partial(torch.optim.Adam, lr=0.01, betas=(0.9, 0.98), fused=True),
        OneCycle,
        extra_losses=[make() for make in way.losses] or None,
        teacher=teacher,
        teacher_weight=10.0,
    )


def execute(run: Run, options: Options) -> dict[str, Any]:
    """Train once and measure; returns a row of the CSV."""
    begun = time.monotonic()
    L.seed_everything(run.seed, verbose=False)
    data = Characters(
        image_size=IMAGE_SIZE,
        batch_size=256,
        eval_batch_size=1000,
        images_per_class=WAYS[run.way].images_per_class,
        held_out_classes=list(CHOOSE_ON),
    )
    module = make_module(run, options)
    trainer = train(module, data, options.epochs, options.accelerator)
    if run.way == "the teacher":
        trainer.save_checkpoint(teacher_of(run.seed, options))
    device = trainer.strategy.root_device
    embeddings, labels = embed(module.backbone.eval().to(device), data.held_out_dataloader("test"), device)
    found = measure(embeddings.to(device), labels, data.one_shot_runs["test"])
    scores = {name: found[name] for name in SCORES}
    settings = {"epochs": options.epochs, "width": options.width}
    made = {"seconds": round(time.monotonic() - begun, 1), "accelerator": options.accelerator}
    return {**run._asdict(), **settings, **scores, **made}


def all_runs(num_seeds: int) -> Iterator[Run]:
    """Every teacher first, then every way with one seed, and so on."""
    yield from (Run("the teacher", seed) for seed in range(num_seeds))
    for seed in range(num_seeds):
        yield from (Run(way, seed) for way in WAYS if way != "the teacher")


def read_rows(path: Path, options: Options) -> list[dict[str, str]]:
    """Return the rows of these settings."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if (row["epochs"], row["width"]) == (str(options.epochs), str(options.width))]


def report(rows: list[dict[str, str]]) -> str:
    """Return a table: means over the seeds, the standard deviation, and the mean difference to the head alone.

    Below it which accelerator gave which seeds: a seed's numbers, and so its differences, are those of one.
    """
    alone = {row["seed"]: row for row in rows if row["way"] == "margin head alone"}
    lines = [f"| way | seeds | {' | '.join(SCORES.values())} |", f"|---|---:|{'---:|' * len(SCORES)}"]
    for way in WAYS:
        found = [row for row in rows if row["way"] == way]
        cells = []
        for name in SCORES if found else ():
            values = [100 * float(row[name]) for row in found]
            spread = f" ({statistics.stdev(values):.2f})" if len(values) > 1 else ""
            pairs = [
                100 * (float(row[name]) - float(alone[row["seed"]][name])) for row in found if row["seed"] in alone
            ]
            change = f", {statistics.mean(pairs):+.2f}" if pairs and way != "margin head alone" else ""
            cells.append(f"{statistics.mean(values):.2f}%{spread}{change}")
        if found:
            lines.append(f"| {way} | {len(found)} | {' | '.join(cells)} |")
    seeds: dict[str, set[str]] = {}
    for row in rows:
        seeds.setdefault(row["accelerator"], set()).add(row["seed"])
    made = "; ".join(f"{', '.join(sorted(each))} on a {accelerator}" for accelerator, each in seeds.items())
    return "\n".join(lines) + f"\n\nSeeds {made}.\n"


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=3600, help="seconds after which no run begins (default: 3600)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a process and thread each (default: 2)")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each way (default: 5)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training images (default: 10)")
    parser.add_argument("--width", type=int, default=16, help="channels of the small network (default: 16)")
    parser.add_argument("--accelerator", default="cpu", choices=("cpu", "gpu"), help="shared by all jobs")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of extra_losses.csv and .md")
    parser.add_argument("--teachers", type=Path, default=Path("teachers"), help="folder of the teachers' checkpoints")
    given = parser.parse_args()
    options = Options(given.epochs, given.accelerator, str(given.teachers), given.width)
    until = time.monotonic() + given.budget
    OmniglotDataModule().prepare_data()
    for folder in (given.out, given.teachers):
        folder.mkdir(parents=True, exist_ok=True)
    path, num_failed = given.out / "extra_losses.csv", 0
    done = {(row["way"], int(row["seed"])) for row in read_rows(path, options)}
    waiting = [run for run in all_runs(given.seeds) if tuple(run) not in done]
    context = multiprocessing.get_context("spawn")  # forked, a process would inherit torch's threads half-made
    with ProcessPoolExecutor(given.jobs, context, initializer=quieten) as pool:
        running: dict[Future[dict[str, Any]], Run] = {}
        while waiting or running:
            ready = [run for run in waiting if not WAYS[run.way].taught or teacher_of(run.seed, options).is_file()]
            while ready and len(running) < given.jobs and time.monotonic() < until:
                waiting.remove(run := ready.pop(0))
                running[pool.submit(execute, run, options)] = run
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                if error := future.exception():
                    num_failed += 1
                    print(f"{run}: {error}", flush=True)
                else:
                    append_row(path, future.result())
                    (given.out / "extra_losses.md").write_text(report(read_rows(path, options)), encoding="utf-8")
                    print(future.result(), flush=True)
    if num_failed:
        sys.exit(f"{num_failed} runs failed")


if __name__ == "__main__":
    main()
