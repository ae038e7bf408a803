"""Time and peak memory of the ArcFace loss (forward and backward) and of scoring a batch, by the number of classes.

Compares `head.loss`, also with the SGD update of the centers inside the backward pass, with the dense path
(`head(embeddings, labels)` and a cross-entropy), with ArcFaceLoss of pytorch-metric-learning, and with nothing but the
matrix products of size batch x classes x dim. Logits, gradient of the embeddings and gradient of the centers take
three, as long as the logits are kept between the passes, and four where they are computed twice. `head.loss` keeps them
in the memory of the centers' gradient if batch <= dim, and computes them twice otherwise: keeping them would take
batch x classes floats more. `score` is `head.score` on a validation batch, `dense_score` the same from whole logits.

Each measurement runs in a new process; the ways take turns, and the median over the rounds is shown. Nothing else
should run on the machine.

    python scripts/benchmarks/head.py --classes 10000 100000 1000000 --dims 128 512
    python scripts/benchmarks/head.py --classes 10 --dims 128 --batch 64
    python scripts/benchmarks/head.py --classes 200000 --dims 128 --batch 250 --ways fused score dense_score
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

Step = Callable[[], Any]
CHUNK = 1024
FIGURE = Path(__file__).parents[1] / "figures" / "head_scaling.png"


def fused(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int) -> Step:
    """The package's loss."""
    from arcface_pl import ArcFaceHead

    head = ArcFaceHead(embeddings.shape[1], num_classes, scale=64.0).to(embeddings.device)
    head.check_labels = False
    return lambda: _differentiate(head.loss(embeddings, labels), embeddings, head)


def in_backward(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int) -> Step:
    """The package's loss, with the centers moved by SGD inside the backward pass."""
    from arcface_pl import ArcFaceHead, shard_head

    head = shard_head(ArcFaceHead(embeddings.shape[1], num_classes, scale=64.0).to(embeddings.device))
    head.check_labels = False
    head.update_in_backward(torch.optim.SGD(head.parameters(), lr=0.1))
    return lambda: _differentiate(head.loss(embeddings, labels), embeddings, head)


def dense(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int) -> Step:
    """The package's logits, whole, and torch's cross-entropy."""
    from arcface_pl import ArcFaceHead

    head = ArcFaceHead(embeddings.shape[1], num_classes, scale=64.0).to(embeddings.device)
    head.check_labels = False
    return lambda: _differentiate(F.cross_entropy(head(embeddings, labels), labels), embeddings, head)


def metric_learning(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int) -> Step:
    """pytorch-metric-learning's ArcFaceLoss."""
    from pytorch_metric_learning.losses import ArcFaceLoss

    loss = ArcFaceLoss(num_classes, embeddings.shape[1], scale=64).to(embeddings.device)
    return lambda: _differentiate(loss(embeddings, labels), embeddings, loss)


def score(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int) -> Step:
    """The package's scores of a validation batch, in one pass over chunks of classes."""
    from arcface_pl import ArcFaceHead

    head = ArcFaceHead(embeddings.shape[1], num_classes, scale=64.0).to(embeddings.device)
    return lambda: head.score(embeddings, labels)


def dense_score(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int) -> Step:
    """The same from whole matrices of logits: what a head without a `score` of its own does."""
    from arcface_pl.heads import ArcFaceHead, Head

    head = ArcFaceHead(embeddings.shape[1], num_classes, scale=64.0).to(embeddings.device)
    return lambda: Head.score(head, embeddings, labels)


def products(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int, *, count: int) -> Step:
    """Three or four matrix products, a chunk of classes at a time so that each finds its input in the cache."""
    batch, dim = embeddings.shape
    chunk = CHUNK if embeddings.device.type == "cpu" else num_classes
    weight = torch.randn(num_classes, dim, device=embeddings.device)
    of_embeddings, of_weight = torch.zeros_like(embeddings), torch.empty_like(weight[:chunk])
    logits = torch.empty(batch, chunk, device=embeddings.device)

    def step() -> None:
        x = embeddings.detach()
        for rows in weight.split(chunk):
            out = logits[:, : len(rows)]
            for _ in range(count - 2):
                torch.mm(x, rows.T, out=out)
            of_embeddings.addmm_(out, rows)
            torch.mm(out.T, x, out=of_weight[: len(rows)])

    return step


WAYS: dict[str, tuple[str, Callable[[torch.Tensor, torch.Tensor, int], Step]]] = {
    "fused": ("arcface_pl, head.loss", fused),
    "in_backward": ("arcface_pl, update included", in_backward),
    "dense": ("arcface_pl, dense logits", dense),
    "pml": ("pytorch-metric-learning", metric_learning),
    "floor": ("three matrix products", partial(products, count=3)),
    "four": ("four matrix products", partial(products, count=4)),
    "score": ("arcface_pl, head.score", score),
    "dense_score": ("arcface_pl, scores from dense logits", dense_score),
}


def _differentiate(loss: torch.Tensor, embeddings: torch.Tensor, head: torch.nn.Module) -> None:
    loss.backward()
    embeddings.grad = None
    head.zero_grad()


def _resident(peak: bool) -> float:
    """Return this process's resident memory, or its peak since the last reset, in MB."""
    field = "VmHWM:" if peak else "VmRSS:"
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def measure(way: str, num_classes: int, dim: int, batch: int, device: str, threads: int | None) -> dict[str, float]:
    """Take one measurement in this process: seconds a step, and MB above what was there before the step."""
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    embeddings = torch.randn(batch, dim, device=device).requires_grad_()
    labels = torch.randint(num_classes, (batch,), device=device)
    WAYS[way][1](embeddings, labels % 10, 10)()  # loads what is loaded at first use
    step = WAYS[way][1](embeddings, labels, num_classes)
    cuda = device != "cpu"
    if cuda:
        before = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
        before = _resident(peak=False)
    step()
    steps, seconds = 1, 0.0
    while seconds < 0.5:
        _wait(cuda)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        _wait(cuda)
        seconds = time.perf_counter() - start
        each, steps = seconds / steps, steps * 4
    after = torch.cuda.max_memory_allocated() / 2**20 if cuda else _resident(peak=True)
    return {"seconds": each, "extra_mb": after - before}


def _wait(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every way at every size, in turn, each time in a new process; a way that fails is left out."""
    rows: dict[tuple[int, int, str], list[dict[str, float]]] = {}
    for dim in arguments.dims:
        for num_classes in arguments.classes:
            for _ in range(arguments.rounds):
                for way in arguments.ways:
                    child = {"way": way, "num_classes": num_classes, "dim": dim, "batch": arguments.batch}
                    child |= {"device": arguments.device, "threads": arguments.threads}
                    command = [sys.executable, __file__, "--child", json.dumps(child)]
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    if done.returncode:
                        print(f"{child}: no result, {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                        continue
                    result = json.loads(done.stdout)
                    rows.setdefault((dim, num_classes, way), []).append(result)
                    print(f"{way:11} C={num_classes:<9} D={dim:<4} {result['seconds']:.5f} s", file=sys.stderr)
    return [
        {
            "dim": dim,
            "classes": num_classes,
            "way": way,
            "seconds": statistics.median(result["seconds"] for result in results),
            "extra_mb": statistics.median(result["extra_mb"] for result in results),
            "rounds": len(results),
        }
        for (dim, num_classes, way), results in rows.items()
        if len(results) == arguments.rounds
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table, with ratios to the floor of the same size and to the weight."""
    floors = {(row["dim"], row["classes"]): row["seconds"] for row in rows if row["way"] == "floor"}
    lines = ["| classes | dim | | seconds | x floor | extra memory, MB | x weight |", "|--:|--:|---|--:|--:|--:|--:|"]
    for row in rows:
        floor = floors.get((row["dim"], row["classes"]))
        ratio = f"{row['seconds'] / floor:.2f}" if floor else ""
        weight = row["classes"] * row["dim"] * 4 / 2**20
        lines.append(
            f"| {row['classes']:,} | {row['dim']} | {WAYS[row['way']][0]} | {row['seconds']:.3g} | {ratio} "
            f"| {row['extra_mb']:,.0f} | {row['extra_mb'] / weight:.2f} |"
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory over the number of classes, on logarithmic axes, one column for each width."""
    from arcface_pl.figures.style import SERIES, new_figure, save

    dims = sorted({row["dim"] for row in rows})
    figure = new_figure(max(6.4, 4.5 * len(dims)), 7)
    axes = figure.subplots(2, len(dims), sharex=True, sharey="row", squeeze=False)
    for column, dim in enumerate(dims):
        for (way, (name, _)), style in zip(WAYS.items(), SERIES, strict=False):
            series = sorted(
                (row["classes"], row["seconds"], row["extra_mb"])
                for row in rows
                if (row["dim"], row["way"]) == (dim, way)
            )
            if not series:
                continue
            classes, seconds, extra = zip(*series, strict=True)
            axes[0, column].loglog(classes, seconds, label=name, **style)
            if way not in ("floor", "four"):
                axes[1, column].loglog(classes, extra, label=name, **style)
        axes[0, column].set_title(f"dim {dim}")
        axes[1, column].set_xlabel("classes")
        for axis in axes[:, column]:
            axis.grid(True, which="major", alpha=0.3)
    axes[0, 0].set_ylabel("forward + backward, seconds")
    axes[1, 0].set_ylabel("extra memory, MB")
    axes[0, 0].legend(frameon=False)
    save(figure, path, dpi=120)


def main() -> None:
    """Measure, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--batch", type=int, default=256)
    losses = [way for way in WAYS if "score" not in way]
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=losses)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; unset: its own choice")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--figure", type=Path, help=f"draw the plot here, such as {FIGURE}")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(**json.loads(arguments.child))))
        return
    rows = run(arguments)
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    if arguments.figure:
        plot(rows, arguments.figure)


if __name__ == "__main__":
    main()
