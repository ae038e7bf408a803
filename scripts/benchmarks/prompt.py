"""Seconds from prompt to prompt: what a person waits for at each command, next to what its imports alone take.

Each command runs in a new process; the rounds take turns. Prints the median (and range) of the wall seconds, and the
median CPU seconds of all its processes. The parts of a training are read from outside: when its lines appear. Nothing
else should run on the machine.

    python scripts/benchmarks/prompt.py
    python scripts/benchmarks/prompt.py --rounds 1 --fast_dataset digits
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

from PIL import Image

PROGRAM = "from arcface_pl.cli import main; main()"
READ = (
    "import glob, gzip, sys, numpy; [numpy.frombuffer(gzip.open(path).read(), 'u1') for path in glob.glob(sys.argv[1])]"
)
FIT = ("fit", "--enable_progress_bar", "false")
PARTS = {
    "imports, settings, data, set-up": "arcface-pl fit",
    "training, validation": "  1/1 ",
    "test, closing table": "trained in",
}
"""Parts of a training, and what a line holds that ends each; the rest is figures and exit."""


class Run(NamedTuple):
    """One run of a command.

    Attributes:
        wall: Seconds from start to end.
        cpu: Seconds of processor time.
        lines: Each line of its output, and the seconds from its start until it appeared.
    """

    wall: float
    cpu: float
    lines: list[tuple[float, str]]


def commands(data_dir: Path, fast_dataset: str) -> dict[str, list[str]]:
    """What is measured: the name of a row, and the arguments of Python."""
    code = {name: ["-c", f"import {name}"] for name in ("torch", "torch, lightning")}
    rows = {f"python -c 'import {name}'": words for name, words in code.items()}
    if fast_dataset == "mnist":
        rows["the four gz files, with numpy"] = ["-c", READ, str(data_dir / "MNIST" / "raw" / "*.gz")]
    calls = {
        "--version": ["--version"],
        "fit --help": ["fit", "--help"],
        "fit --wrong 1": ["fit", "--wrong", "1"],
        "fit --config nosuch": ["fit", "--config", "nosuch"],
        "predict nosuch.ckpt one.png": ["predict", "nosuch.ckpt", "one.png"],
        "validate": ["validate"],
        "fit --data.batch_size x": ["fit", "--data.batch_size", "x"],
        "fit --model.head ArcFaceHed": ["fit", "--model.head", "ArcFaceHed"],
        "fit --model.head.margins 1": ["fit", "--model.head.margins", "1"],
        "fit --model.head.margin 9": ["fit", "--model.head.margin", "9"],
        "predict model.ckpt one.png": ["predict", "model.ckpt", "one.png"],
        "recognize identify model.ckpt one.png": ["recognize", "identify", "model.ckpt", "one.png"],
        "demo model.ckpt, to its first answer": ["demo", "model.ckpt", "--port", "0"],
        "export model.ckpt": ["export", "model.ckpt", "--output", "model.onnx"],
        "evaluate model.ckpt": ["evaluate", "model.ckpt"],
        "fit --max_epochs 1 --data.dataset digits": [*FIT, "--max_epochs", "1", "--data.dataset", "digits"],
        f"fit --config fast --data.dataset {fast_dataset}": [
            *(*FIT, "--config", "fast", "--data.dataset", fast_dataset, "--data.data_dir", str(data_dir))
        ],
    }
    return rows | {f"arcface-pl {name}": ["-c", PROGRAM, *words] for name, words in calls.items()}


def timed(words: list[str]) -> Run:
    """Run Python with these words; a server is asked for its page once, and killed.

    Raises:
        RuntimeError: If it ends by a fault rather than with code 0, or 2 for a mistake.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    lines: list[tuple[float, str]] = []
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append((time.perf_counter() - start, line))
            if line.startswith("http://127.0.0.1:"):
                urllib.request.urlopen(line.split()[0], timeout=60).read()
                process.kill()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 2, -9):
        raise RuntimeError(f"{words} ended with {process.returncode}:\n{''.join(line for _, line in lines)}")
    return Run(wall, usage.ru_utime + usage.ru_stime, lines)


def parts_of(run: Run) -> dict[str, float]:
    """Divide a training's seconds into `PARTS` and the rest; empty for other commands."""
    ends = {name: next((at for at, line in run.lines if mark in line), None) for name, mark in PARTS.items()}
    found, last = {}, 0.0
    for name, end in ends.items():
        if end is None:
            return {}
        found[name], last = end - last, end
    return found | {"figures, exit": run.wall - last}


def print_table(runs: dict[str, list[Run]]) -> None:
    """Print a row per command, and one per part of a training."""
    print("| | seconds (range) | CPU seconds |\n|---|--:|--:|")
    for name, found in runs.items():
        walls = [run.wall for run in found]
        cpu = statistics.median(run.cpu for run in found)
        print(f"| `{name}` | {statistics.median(walls):.2f} ({min(walls):.2f} to {max(walls):.2f}) | {cpu:.2f} |")
        divided = [parts_of(run) for run in found]
        for part in divided[0]:
            seconds = [each[part] for each in divided]
            print(f"| ... {part} | {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | |")


def main(arguments: list[str] | None = None) -> None:
    """Train a model to use, measure each command, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fast_dataset", default="mnist", help="what fast.yaml is trained on: mnist or digits")
    parser.add_argument("--data_dir", type=Path, default=Path(os.environ.get("ARCFACE_PL_DATA_DIR", "data")))
    options = parser.parse_args(arguments)
    measured = commands(options.data_dir.resolve(), options.fast_dataset)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        timed(["-c", PROGRAM, *FIT, "--max_epochs", "1", "--data.dataset", "digits"])
        shutil.copy("lightning_logs/version_0/checkpoints/best.ckpt", "model.ckpt")
        Path("people/one").mkdir(parents=True)
        picture = Image.new("L", (64, 64), 255)
        picture.paste(0, (30, 10, 36, 50))
        for path in ("one.png", "people/one/one.png"):
            picture.save(path)
        timed(["-c", PROGRAM, "recognize", "enroll", "model.ckpt", "people"])
        runs: dict[str, list[Run]] = {name: [] for name in measured}
        for _ in range(options.rounds):
            for name, words in measured.items():
                runs[name].append(timed(words))
        os.chdir("/")
    print_table(runs)


if __name__ == "__main__":
    main()
