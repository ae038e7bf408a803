"""Time the use of a trained model: eager, compiled, and ONNX Runtime, one picture at a time and 256 at once.

    python scripts/benchmarks/inference.py best --threads 2 --repeats 5

Every measurement is a process of its own with the same number of threads, and the three take turns. Each has uint8
pixels in memory and gives embeddings and cosines; loading, compiling and the first calls are left out of the time. The
pixels are random: what a network of this kind computes does not depend on them. Writes inference.md and inference.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from arcface_pl.cli.inputs import open_model
from arcface_pl.recognizer.deployed import DeployedModel
from arcface_pl.recognizer.exporters import export

CONTENDERS = ("eager", "compiled", "onnxruntime")
BATCHES = (1, 256)


def contend(task: dict[str, Any]) -> None:
    """Time one contender in this process and print the seconds a call takes, the median over a second or more."""
    torch.set_num_threads(task["threads"])
    pixels = torch.randint(0, 256, (task["batch"], *task["shape"]), dtype=torch.uint8)
    call = _runtime_call(task, pixels) if task["contender"] == "onnxruntime" else _torch_call(task, pixels)
    for _ in range(5):
        call()
    seconds: list[float] = []
    while sum(seconds) < task["seconds"] or len(seconds) < 5:
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    print(json.dumps({"seconds": statistics.median(seconds), "calls": len(seconds)}))


def _torch_call(task: dict[str, Any], pixels: torch.Tensor) -> Callable[[], object]:
    network: Callable[..., object] = DeployedModel(open_model(task["model"]))
    if task["contender"] == "compiled":
        network = torch.compile(network)

    def call() -> object:
        with torch.inference_mode():
            return network(pixels)

    return call


def _runtime_call(task: dict[str, Any], pixels: torch.Tensor) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = task["threads"], 1
    session = onnxruntime.InferenceSession(task["onnx"], options, providers=["CPUExecutionProvider"])
    given = {"pixels": pixels.numpy()}
    return lambda: session.run(None, given)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all contenders in turn, round after round."""
    model = open_model(options.model)
    shape = (model.preprocessor.in_channels, model.preprocessor.image_size, model.preprocessor.image_size)
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        onnx = str(Path(folder) / "model.onnx")
        export(model, onnx, "onnx", torch.randint(0, 256, (8, *shape), dtype=torch.uint8))
        for number in range(options.repeats):
            for batch in BATCHES:
                for contender in CONTENDERS:
                    print(f"round {number + 1} of {options.repeats}: {contender}, {batch}", file=sys.stderr, flush=True)
                    task = {"contender": contender, "batch": batch, "threads": options.threads, "onnx": onnx}
                    task |= {"model": options.model, "shape": shape, "seconds": options.seconds}
                    command = [sys.executable, __file__, "--task", json.dumps(task)]
                    done = subprocess.run(command, env=environment, capture_output=True, text=True)
                    if done.returncode:
                        sys.exit(f"{contender}: exit code {done.returncode}\n{done.stderr[-3000:]}")
                    answer = json.loads(done.stdout.splitlines()[-1])
                    results.append({"contender": contender, "batch": batch, **answer})
    return results


def table(results: list[dict[str, Any]]) -> str:
    """Return medians and ranges in Markdown."""
    rows = ["| | images at once | milliseconds (range) | images/s |", "|---|--:|--:|--:|"]
    for batch in BATCHES:
        for contender in CONTENDERS:
            times = [
                1e3 * each["seconds"] for each in results if (each["contender"], each["batch"]) == (contender, batch)
            ]
            median = statistics.median(times)
            spread = f"{min(times):.3g} to {max(times):.3g}"
            rows.append(f"| {contender} | {batch} | {median:.3g} ({spread}) | {1e3 * batch / median:,.0f} |")
    return "\n".join(rows) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="best", help="checkpoint, folder, best, last or last-good")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="least time of a measurement")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for inference.md and inference.json")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.task:
        contend(json.loads(options.task))
        return
    results = measure(options)
    versions = {name: version(name) for name in ("torch", "onnxruntime")}
    about = {"model": options.model, "threads": options.threads, "machine": platform.processor(), "versions": versions}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "inference.json").write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")
    (options.out / "inference.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
