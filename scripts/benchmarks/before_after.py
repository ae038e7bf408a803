"""Seconds and memory of what was made faster, in this checkout and in an earlier one, in turn.

    git worktree add ../before COMMIT
    python scripts/benchmarks/before_after.py --before ../before
    python scripts/benchmarks/before_after.py --measures gallery checkpoint --size 0.01

Every measure runs in a new process, and rounds alternate between the checkouts: the table shows medians, their ratio,
and how far results are from those before (relative; 0 where they are equal to the last bit). Without ``--before`` only
this checkout is measured. Nothing else should run on the machine.

gallery     load, search and enroll 100,000 names of 128 dimensions
checkpoint  write 512 MiB of weights, write them a second time as `last`, read them
split       divide 1,000,000 images of 10,000 classes
head        loss and gradients of 256 x 512 embeddings with 100,000 classes
score       evaluate 256 x 128 embeddings with 200,000 classes
program     import the command line, train on the digits, exit, predict one picture
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from head import resident
from prompt import PROGRAM, timed

Rows = dict[str, float]
Found = tuple[Rows, list[torch.Tensor]]
HERE = Path(__file__).parents[2]


def first_of(*names: str) -> Any:
    """Import the first module that this checkout has."""
    for name in names:
        try:
            return import_module(f"arcface_pl.{name}")
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(f"none of {names} is in arcface_pl")


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the wall seconds of a call, and its result."""
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


def peak_of(call: Callable[[], Any]) -> float:
    """Return by how many MiB memory rises at most during a call (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
    before = resident(peak=False)
    call()
    return resident(peak=True) - before


def of_gallery(size: float, folder: Path) -> Found:
    """Load, search and enroll."""
    gallery_class, count = first_of("recognizer").Gallery, int(1e5 * size)
    rows = F.normalize(torch.randn(count + 1, 128), dim=1)
    gallery = gallery_class(128)
    for index in range(count):
        gallery.add(f"n{index}", rows[index : index + 1])
    gallery.save(folder, "model")
    del gallery
    before = resident(peak=False)
    load, gallery = seconds(lambda: gallery_class.load(folder, "model"))

    def search(images: int = 1) -> Any:
        return gallery.search(rows[:images], 5)

    first, found = seconds(search)
    later, four = (statistics.median(seconds(partial(search, images))[0] for _ in range(10)) for images in (1, 4))
    memory = resident(peak=False) - before
    gallery.add("another", rows[-1:])
    times = {"load, s": load, "first search, s": first, "next searches, s": later, "for 4 images, s": four}
    times |= {"memory, MiB": memory, "search after an enrollment, s": seconds(search)[0]}
    return times, [torch.tensor([match.score for match in found[0]])]


def of_checkpoint(size: float, folder: Path) -> Found:
    """Write, write again, read."""
    plugin = first_of("checkpoints.plugin", "checkpoint_io").DurableCheckpointIO()
    weights = {f"w{index}": torch.randn(int(2**24 * size)) for index in range(8)}
    content = {"state_dict": weights, "hyper_parameters": {}, "pytorch-lightning_version": "2.6.6"}
    best, last = folder / "best.ckpt", folder / "last.ckpt"
    rows = {"torch.save, s": seconds(lambda: torch.save(content, best))[0]}
    best.unlink()
    rows["write, s"] = seconds(lambda: plugin.save_checkpoint(content, best))[0]
    again = (plugin.link_checkpoint, best) if hasattr(plugin, "link_checkpoint") else (plugin.save_checkpoint, content)
    rows["write as last too, s"] = seconds(lambda: again[0](again[1], last))[0]
    rows["read, s"], read = seconds(lambda: plugin.load_checkpoint(last))
    return rows, [torch.stack([weight.sum() for weight in read["state_dict"].values()])]


def of_split(size: float, folder: Path) -> Found:
    """Divide images by class."""
    split = first_of("data.split").stratified_split
    labels = torch.randint(int(1e4 * size), (int(1e6 * size),))
    took, parts = seconds(lambda: split(labels, 0.1, seed=0))
    return {"split, s": took}, list(parts)


def of_head(size: float, folder: Path) -> Found:
    """Compute the loss and both gradients."""
    head = first_of("heads").ArcFaceHead(512, int(1e5 * size), scale=64.0)
    embeddings = torch.randn(256, 512, requires_grad=True)
    labels = torch.randint(head.num_classes, (256,))

    def step() -> None:
        embeddings.grad = head.weight.grad = None
        head.loss(embeddings, labels).backward()

    peak = peak_of(step)
    took = statistics.median(seconds(step)[0] for _ in range(3))
    return {"loss and gradients, s": took, "memory, MiB": peak}, [embeddings.grad, head.weight.grad]


@torch.no_grad()
def of_score(size: float, folder: Path) -> Found:
    """Evaluate a batch."""
    head = first_of("heads").ArcFaceHead(128, int(2e5 * size), scale=64.0).eval()
    embeddings, labels = torch.randn(256, 128), torch.randint(head.num_classes, (256,))
    scores = first_of("training.scores", "scores").Scores("val", head.num_classes)

    def step() -> Any:
        return scores.update_from(head, embeddings, labels)

    peak = peak_of(step)
    took, found = min((seconds(step) for _ in range(3)), key=lambda timing: timing[0])
    names = ("predictions", "target_angle", "nearest_other_angle")
    return {"evaluate, s": took, "memory, MiB": peak}, [found[name] for name in names]


def of_program(size: float, folder: Path) -> Found:
    """Import, train, exit, predict."""
    import numpy as np
    from PIL import Image

    os.chdir(folder)
    Image.fromarray(np.pad(np.zeros((40, 6), np.uint8), ((12, 12), (29, 29)), constant_values=255)).save("one.png")
    rows = {"import arcface_pl.cli, s": timed(["-c", "import arcface_pl.cli"]).wall}
    fit = timed(["-c", PROGRAM, "fit", "--max_epochs", "1", "--data.dataset", "digits"])
    rows |= {"fit, s": fit.wall, "exit after its last line, s": fit.wall - fit.lines[-1][0]}
    (best,) = folder.glob("lightning_logs/*/checkpoints/best.ckpt")
    predict = timed(["-c", PROGRAM, "predict", str(best), "one.png"])
    return rows | {"predict one.png, s": predict.wall}, []


MEASURES = {call.__name__[3:]: call for call in (of_gallery, of_checkpoint, of_split, of_head, of_score, of_program)}


def child(name: str, size: float, results: str) -> None:
    """Take one measure of the checkout in PYTHONPATH; print its rows, and leave its results in a file."""
    tree = os.environ["PYTHONPATH"].split(os.pathsep)[0]
    found = import_module("arcface_pl").__file__
    if not str(found).startswith(tree):
        sys.exit(f"arcface_pl is imported from {found}, not from {tree}")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if name == "checkpoint" else None) as folder:
        rows, tensors = MEASURES[name](size, Path(folder))
    torch.save(tensors, results)
    print(json.dumps(rows))


def difference(results: list[torch.Tensor], before: list[torch.Tensor]) -> float:
    """Return the largest relative distance of two results; infinite where shapes differ."""
    if [each.shape for each in results] != [each.shape for each in before]:
        return math.inf
    pairs = zip(results, before, strict=True)
    return max(float(one.double().sub(other).norm() / other.double().norm()) for one, other in pairs)


def main(arguments: list[str] | None = None) -> None:
    """Measure in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="an earlier checkout of this repository")
    parser.add_argument("--measures", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=float, default=1.0, help="factor of every size")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(options.child[0], options.size, options.child[1])
        return
    trees = ({"before": options.before.resolve()} if options.before else {}) | {"now": HERE}
    print("| | | before | now | now / before | difference |\n|---|---|--:|--:|--:|--:|")
    for name in options.measures:
        rounds: dict[str, list[Rows]] = {tree: [] for tree in trees}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(options.rounds):
                for tree, path in trees.items():
                    words = [__file__, "--child", name, f"{folder}/{tree}", "--size", str(options.size)]
                    places = {**os.environ, "PYTHONPATH": str(path)}
                    done = subprocess.run([sys.executable, *words], env=places, stdout=subprocess.PIPE, check=True)
                    rounds[tree].append(json.loads(done.stdout.splitlines()[-1]))
            results = [torch.load(f"{folder}/{tree}") for tree in trees]
        off = f"{difference(results[1], results[0]):.1g}" if len(results) == 2 and results[0] else ""
        for row in rounds["now"][0]:
            *before, now = (statistics.median(each[row] for each in found) for found in rounds.values())
            ratio = f"{before[0]:.3g} | {now:.3g} | {now / before[0]:.2g}" if before else f" | {now:.3g} |"
            print(f"| {name} | {row} | {ratio} | {off} |", flush=True)
            name = off = ""


if __name__ == "__main__":
    main()
