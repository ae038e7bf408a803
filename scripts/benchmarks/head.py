"""Time and peak memory of the ArcFace loss (forward and backward) and of scoring a batch, by the number of classes.

Compares `head.loss`, also with the SGD update of the centers inside the backward pass, with the dense path
(`head(embeddings, labels)` and a cross-entropy), with ArcFaceLoss of pytorch-metric-learning, and with nothing but the
matrix products of size batch x classes x dim. Logits, gradient of the embeddings and gradient of the centers take
three, as long as the logits are kept between the passes, and four where they are computed twice. `head.loss` keeps them
in the memory of the centers' gradient if batch <= dim, and computes them twice otherwise: keeping them would take
batch x classes floats more. `floor_exp` and `four_exp` are these products with the exp of the logits, once and twice.
`score` is `head.score` on a validation batch, `dense_score` the same from whole logits; `linear` is the softmax head,
for comparison with `torch_linear` (torch >= 2.14).

On a CPU each measurement runs in a new process, and on a GPU in this one, timed by its events; the ways take turns, and
the median over the rounds is shown. Nothing else should run on the machine.

    python scripts/benchmarks/head.py --classes 10000 100000 1000000 --dims 128 512
    python scripts/benchmarks/head.py --classes 1000000 --dims 128 --ways floor four four_exp fused in_backward
    python scripts/benchmarks/head.py --classes 10 --dims 128 --batch 64
    python scripts/benchmarks/head.py --classes 200000 --dims 128 --batch 250 --ways fused score dense_score
    python scripts/benchmarks/head.py --device cuda --classes 1000000 --dims 512 --ways floor_tf32 fused_tf32 dense
    python scripts/benchmarks/head.py --errors --classes 10000 --dims 128 512
"""

import argparse
import contextlib
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

Step = Callable[[], Any]
CHUNK = 1024
GPU_CELLS = 1 << 24
FIGURE = Path(__file__).parents[1] / "figures" / "head_scaling.png"


def _head(embeddings: torch.Tensor, num_classes: int, name: str = "ArcFaceHead", **options: Any) -> Any:
    """Make a head on the device; one of 20 GB would take long to come from the CPU."""
    import arcface_pl

    scale = {"scale": 64.0} if name == "ArcFaceHead" else {}
    with torch.device(embeddings.device):
        head = getattr(arcface_pl, name)(embeddings.shape[1], num_classes, **scale, **options)
    head.check_labels = False
    return head


def fused(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int, **options: Any) -> Step:
    """The package's loss."""
    head = _head(embeddings, num_classes, **options)
    return lambda: _differentiate(head.loss(embeddings, labels), embeddings, head)


def in_backward(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int, **options: Any) -> Step:
    """The package's loss, with the centers moved by SGD inside the backward pass."""
    from arcface_pl import shard_head

    head = shard_head(_head(embeddings, num_classes, **options))
    head.update_in_backward(torch.optim.SGD(head.parameters(), lr=0.1))
    return lambda: _differentiate(head.loss(embeddings, labels), embeddings, head)


def dense(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int, *, compiled: bool = False) -> Step:
    """The package's logits, whole, and torch's cross-entropy."""
    head = _head(embeddings, num_classes)

    def loss() -> torch.Tensor:
        return F.cross_entropy(head(embeddings, labels), labels)

    call = torch.compile(loss, dynamic=False) if compiled else loss
    return lambda: _differentiate(call(), embeddings, head)


def torch_linear(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int, **options: Any) -> Step:
    """Torch's chunked cross-entropy of a linear layer, which torch 2.14 added: a softmax head without bias."""
    head = _head(embeddings, num_classes, "LinearHead", use_bias=False)
    chunks = torch.nn.LinearCrossEntropyOptions(**options)

    def loss() -> torch.Tensor:
        return F.linear_cross_entropy(embeddings, head.weight, labels, options=chunks)

    return lambda: _differentiate(loss(), embeddings, head)


def metric_learning(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int) -> Step:
    """pytorch-metric-learning's ArcFaceLoss."""
    from pytorch_metric_learning.losses import ArcFaceLoss

    with torch.device(embeddings.device):
        loss = ArcFaceLoss(num_classes, embeddings.shape[1], scale=64)
    return lambda: _differentiate(loss(embeddings, labels), embeddings, loss)


def score(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int) -> Step:
    """The package's scores of a validation batch, in one pass over chunks of classes."""
    head = _head(embeddings, num_classes)
    return lambda: head.score(embeddings, labels)


def dense_score(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int) -> Step:
    """The same from whole matrices of logits: what a head without a `score` of its own does."""
    from arcface_pl.heads import Head

    head = _head(embeddings, num_classes)
    return lambda: Head.score(head, embeddings, labels)


def products(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    *,
    count: int,
    precision: str = "float32",
    exp: bool = False,
) -> Step:
    """Three or four matrix products, a chunk of classes at a time; on a CPU each finds its input in the cache.

    With ``exp``, each time that logits are computed their exp is too, as any softmax needs it.
    """
    batch, dim = embeddings.shape
    chunk = CHUNK if embeddings.device.type == "cpu" else GPU_CELLS // max(batch, dim)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    weight = torch.randn(num_classes, dim, device=embeddings.device, dtype=dtype)
    of_embeddings = torch.zeros_like(embeddings, dtype=dtype)
    of_weight = torch.empty_like(weight[:chunk])
    logits = torch.empty(batch, chunk, device=embeddings.device, dtype=dtype)

    def step() -> None:
        x = embeddings.detach().to(dtype) / dim
        with tensor_cores(precision):
            for rows in weight.split(chunk):
                out = logits[:, : len(rows)]
                for _ in range(count - 2):
                    torch.mm(x, rows.T, out=out)
                    if exp:
                        out.exp_()
                of_embeddings.addmm_(out, rows)
                torch.mm(out.T, x, out=of_weight[: len(rows)])

    return step


@contextlib.contextmanager
def tensor_cores(precision: str) -> Iterator[None]:
    """Let float32 products use TF32 within the context, if asked for."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    if precision == "tf32":
        matmul.fp32_precision = precision
    yield
    matmul.fp32_precision = before


def high(make: Callable[[torch.Tensor, torch.Tensor, int], Step]) -> Callable[[torch.Tensor, torch.Tensor, int], Step]:
    """Return a way whose every float32 product may use TF32."""

    def made(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int) -> Step:
        step = make(embeddings, labels, num_classes)

        def under() -> None:
            torch.set_float32_matmul_precision("high")
            step()
            torch.set_float32_matmul_precision("highest")

        return under

    return made


WAYS: dict[str, tuple[str, Callable[[torch.Tensor, torch.Tensor, int], Step]]] = {
    "floor": ("three matrix products", partial(products, count=3)),
    "floor_tf32": ("three matrix products, TF32", partial(products, count=3, precision="tf32")),
    "floor_bfloat16": ("three matrix products, bfloat16", partial(products, count=3, precision="bfloat16")),
    "four": ("four matrix products", partial(products, count=4)),
    "floor_exp": ("three matrix products, exp", partial(products, count=3, exp=True)),
    "four_exp": ("four matrix products, exp twice", partial(products, count=4, exp=True)),
    "fused": ("arcface_pl, head.loss", fused),
    "fused_tf32": ("arcface_pl, head.loss, TF32", partial(fused, non_target_precision="tf32")),
    "fused_bfloat16": ("arcface_pl, head.loss, bfloat16", partial(fused, non_target_precision="bfloat16")),
    "in_backward": ("arcface_pl, update included", in_backward),
    "in_backward_tf32": ("arcface_pl, update included, TF32", partial(in_backward, non_target_precision="tf32")),
    "linear": ("arcface_pl, softmax head", partial(fused, name="LinearHead", use_bias=False)),
    "torch_linear": ("torch, linear_cross_entropy", torch_linear),
    "torch_linear_32": ("torch, linear_cross_entropy, batch_chunk_size=32", partial(torch_linear, batch_chunk_size=32)),
    "dense": ("arcface_pl, dense logits", dense),
    "compiled": ("arcface_pl, dense logits, compiled", partial(dense, compiled=True)),
    "pml": ("pytorch-metric-learning", metric_learning),
    "fused_high": ("arcface_pl, head.loss, all TF32", high(fused)),
    "in_backward_high": ("arcface_pl, update included, all TF32", high(in_backward)),
    "dense_high": ("arcface_pl, dense logits, TF32", high(dense)),
    "compiled_high": ("arcface_pl, dense logits, compiled, TF32", high(partial(dense, compiled=True))),
    "pml_high": ("pytorch-metric-learning, TF32", high(metric_learning)),
    "score": ("arcface_pl, head.score", score),
    "dense_score": ("arcface_pl, scores from dense logits", dense_score),
}
ALWAYS = ["fused", "in_backward", "dense", "pml", "floor", "four"]


def _differentiate(loss: torch.Tensor, embeddings: torch.Tensor, head: torch.nn.Module) -> None:
    loss.backward()
    embeddings.grad = None
    head.zero_grad()


def resident(peak: bool) -> float:
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
    if device != "cpu":
        return _measure_on_gpu(WAYS[way][1](embeddings, labels, num_classes))
    WAYS[way][1](embeddings, labels % 10, 10)()  # loads what is loaded at first use
    step = WAYS[way][1](embeddings, labels, num_classes)
    Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
    before = resident(peak=False)
    step()
    steps, seconds = 1, 0.0
    while seconds < 0.5:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        seconds = time.perf_counter() - start
        each, steps = seconds / steps, steps * 4
    return {"seconds": each, "extra_mb": resident(peak=True) - before}


def _measure_on_gpu(step: Step) -> dict[str, float]:
    """Time steps by events of the device, after two that load and compile; the median of at least five."""
    before = torch.cuda.memory_allocated() / 2**20
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    extra = torch.cuda.max_memory_allocated() / 2**20 - before
    each: list[float] = []
    while len(each) < 5 or (sum(each) < 0.15 and len(each) < 50):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        end.synchronize()
        each.append(begin.elapsed_time(end) / 1000)
    return {"seconds": statistics.median(each), "extra_mb": extra}


def attempt(child: dict[str, Any]) -> dict[str, float] | str:
    """Measure in a new process, or on a GPU in this one; returns the last line of what went wrong, if anything did."""
    if child["device"] == "cpu":
        command = [sys.executable, __file__, "--child", json.dumps(child)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if not done.returncode else done.stderr.strip().splitlines()[-1]
    try:
        return measure(**child)
    except Exception as error:  # out of memory, a compiler or a package that is not there
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every way at every size, in turn; a way that fails is left out."""
    rows: dict[tuple[int, int, str], list[dict[str, float]]] = {}
    begun = time.monotonic()
    for dim in arguments.dims:
        for num_classes in arguments.classes:
            for _ in range(arguments.rounds):
                for way in arguments.ways:
                    if time.monotonic() - begun > arguments.budget:
                        break
                    child = {"way": way, "num_classes": num_classes, "dim": dim, "batch": arguments.batch}
                    result = attempt(child | {"device": arguments.device, "threads": arguments.threads})
                    print(json.dumps({**child, "result": result}), file=sys.stderr, flush=True)
                    if not isinstance(result, str):
                        rows.setdefault((dim, num_classes, way), []).append(result)
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
    ]


def errors(arguments: argparse.Namespace) -> str:
    """Return a table of how far loss and gradients are from float64, by the precision of the products."""
    torch.manual_seed(0)
    lines = ["| classes | dim | precision | loss | gradient of embeddings | of centers |", "|--:|--:|---|--:|--:|--:|"]
    for dim in arguments.dims:
        for num_classes in arguments.classes:
            x = torch.randn(arguments.batch, dim, device=arguments.device)
            y = torch.randint(num_classes, (arguments.batch,), device=arguments.device)
            exact: list[torch.Tensor] = []
            for precision in (None, "float32", "tf32", "bfloat16"):
                torch.manual_seed(0)
                head = _head(x, num_classes, **({"non_target_precision": precision} if precision else {}))
                inputs = x.to(torch.float32 if precision else torch.float64).requires_grad_()
                loss = head.to(inputs.dtype).loss(inputs, y)
                gradients = torch.autograd.grad(loss, (inputs, head.weight))
                found = [value.detach().double() for value in (loss, *gradients)]
                exact = exact or found
                off = (f"{float((a - b).norm() / b.norm()):.1e}" for a, b in zip(found, exact, strict=True))
                lines.append(f"| {num_classes:,} | {dim} | {precision or 'float64'} | {' | '.join(off)} |")
    return "\n".join(lines)


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

    dims, measured = sorted({row["dim"] for row in rows}), {row["way"] for row in rows}
    ways = [(way, name) for way, (name, _) in WAYS.items() if way in measured]
    figure = new_figure(max(6.4, 4.5 * len(dims)), 7)
    axes = figure.subplots(2, len(dims), sharex=True, sharey="row", squeeze=False)
    for column, dim in enumerate(dims):
        for (way, name), style in zip(ways, cycle(SERIES), strict=False):
            series = sorted(
                (row["classes"], row["seconds"], row["extra_mb"])
                for row in rows
                if (row["dim"], row["way"]) == (dim, way)
            )
            if not series:
                continue
            classes, seconds, extra = zip(*series, strict=True)
            axes[0, column].loglog(classes, seconds, label=name, **style)
            if "matrix products" not in name:
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
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=ALWAYS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; unset: its own choice")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no measurement begins")
    parser.add_argument("--errors", action="store_true", help="measure how exact each precision is, and nothing else")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--figure", type=Path, help=f"draw the plot here, such as {FIGURE}")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(**json.loads(arguments.child))))
        return
    if arguments.errors:
        print(errors(arguments))
        return
    rows = run(arguments)
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    if arguments.figure:
        plot(rows, arguments.figure)


if __name__ == "__main__":
    main()
