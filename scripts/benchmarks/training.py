"""Time training: the original loop, stock Lightning, this project, and its fast recipe, in turn.

    python scripts/benchmarks/training.py --data_dir data --threads 2 --repeats 3
    python scripts/benchmarks/training.py --sections throughput overhead
    python scripts/benchmarks/training.py --add --sections accuracy --contenders original --epochs 4 --repeats 2
    python scripts/benchmarks/training.py --profile "same network"
    python scripts/benchmarks/training.py --accelerator gpu --sections accuracy --contenders fast accurate --epochs 4

Every measurement is a process of its own with the same number of threads, and contenders take turns; only overhead,
which is less than what two processes differ by, is measured in turns within one. Evaluation is left out of every time;
where accuracy is asked for, each contender is looked at every tenth of an epoch with the clock stopped, and each round
has a seed of its own. Writes speed.md, speed.json and speed.png; with --add to those that are there, so that the suite
can be run in pieces.

throughput  one epoch each: images a second, peak memory, and the floor: convolutions and matrix products alone
accuracy    training seconds to 97, 98, 99, 99.3 and 99.5% honest test accuracy; total seconds of the longest run
overhead    this project's Trainer over a bare loop, a step, at batch 64 and 256, and the floor of both
startup     from the command to the first step done
scaling     seconds an epoch against the number of images, and on one and two threads
"""

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import speed_report
import torch
from baseline import unpack

HERE = Path(__file__).parent
SECTIONS = ("throughput", "accuracy", "overhead", "startup", "scaling")
COMPARED = ("original", "lightning", "same network", "same network, own precision", "fast")
ON_A_GPU = ("fast", "accurate")
Results = dict[str, list[dict[str, Any]]]


def plan(options: argparse.Namespace) -> dict[str, list[list[dict[str, Any]]]]:
    """Return the tasks of each section, in the order in which one round runs them; a list shares a process."""
    images, epochs = options.num_images, options.epochs
    whole = {"num_images": images}
    wanted = {*options.contenders, *(speed_report.FLOORS.get(name) for name in options.contenders)}
    throughput = [
        {"contender": "original", **whole},
        {"contender": "lightning", **whole},
        {"contender": "same network", **whole},
        {"contender": "same network, own precision", **whole, "batch_size": 256},
        {"contender": "fast", **whole, "batch_size": 256},
        {"contender": "floor", **whole},
        {"contender": "floor, own precision", **whole, "batch_size": 256},
        {"contender": "floor of fast", **whole, "batch_size": 256},
    ]
    looked_at = {**whole, "looks": 10}
    accuracy = [
        {"contender": "original", **looked_at, "epochs": epochs},
        {"contender": "lightning", **looked_at, "epochs": epochs},
        {"contender": "same network", **looked_at, "epochs": epochs},
        *(
            {"contender": "fast", **looked_at, "epochs": length, "batch_size": 256}
            for length in sorted({1, min(4, epochs), epochs})
        ),
        {"contender": "accurate", **looked_at, "epochs": epochs, "batch_size": 256},
    ]
    bare, trainer, floor = (
        {"contender": contender, "num_images": min(images, 15_000)}
        for contender in ("bare loop", "same network", "floor")
    )
    overhead = [
        [{**task, "batch_size": size} for task in (*(bare, trainer, trainer, bare) * 2, floor)] for size in (64, 256)
    ]
    scaling = [
        {"contender": contender, "num_images": count, "threads": threads}
        for count in (1_000, 3_000, 10_000, 30_000, 60_000)
        if count <= images
        for threads in sorted({1, options.threads})
        for contender in ("original", "same network")
    ]
    return {
        "throughput": [[task] for task in throughput if task["contender"] in wanted],
        "accuracy": [[task] for task in accuracy if task["contender"] in options.contenders],
        "overhead": overhead,
        "scaling": [[task] for task in scaling],
    }


def measure(tasks: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run contenders one after another in a fresh process; returns what the watch of each saw."""
    command = [sys.executable, str(HERE / "variants.py"), json.dumps(tasks)]
    done = subprocess.run(command, env=environment(options), text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{tasks[0]['contender']}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    if tasks[0].get("profile"):
        print(done.stdout)
    every = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"task"')]
    for seen in every:
        del seen["task"]["data_dir"]  # a temporary folder, of no interest afterwards
    return every


def environment(options: argparse.Namespace) -> dict[str, str]:
    """Return the environment of a contender: all get the same threads, waiting the same way."""
    given = {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": os.pathsep.join(map(str, (HERE, *sys.path[1:])))}
    waiting = {"OMP_WAIT_POLICY": options.wait_policy} if options.wait_policy else {}
    return {**os.environ, **given, **waiting}


def measure_startup(options: argparse.Namespace, data_dir: str) -> dict[str, Any]:
    """Time scripts/fit.py from the command to the end of its first step."""
    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder) / "first_step.yaml"
        overlay.write_text("trainer: {callbacks+: [{class_path: watch.FirstStep}]}\n", encoding="utf-8")
        flags = ["--data.data_dir", data_dir, "--data.dataset", "mnist", "--default_root_dir", folder]
        script = str(HERE.parent / "fit.py")
        begun = time.time()
        command = [
            sys.executable,
            script,
            "--config",
            str(overlay),
            *flags,
            "--accelerator",
            "cpu",
            "--max_epochs",
            "1",
        ]
        with subprocess.Popen(
            command, env=environment(options), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.search(r"first step at ([\d.]+)", line):
                    process.kill()
                    return {"task": {"contender": "scripts/fit.py"}, "seconds": float(found.group(1)) - begun}
    sys.exit("scripts/fit.py ended without a step")


def run(options: argparse.Namespace) -> None:
    """Run the sections asked for, round after round, and write the results after each."""
    about = describe(options)
    commands, results = earlier(options.out / "speed.json", about) if options.add else ([], {})
    commands.append(" ".join(["python", "scripts/benchmarks/training.py", *map(shlex.quote, options.words)]))
    tasks = plan(options)
    with tempfile.TemporaryDirectory() as folder:
        unpack(options.data_dir, Path(folder))
        for section in options.sections:
            seen = results.setdefault(section, [])
            for number in range(options.repeats):
                print(f"{section}, round {number + 1} of {options.repeats}", file=sys.stderr, flush=True)
                if section == "startup":
                    seen.append(measure_startup(options, folder))
                for group in tasks.get(section, []):
                    seed = sum(each["task"]["contender"] == group[0]["contender"] for each in seen)
                    whole = {
                        "data_dir": folder,
                        "threads": options.threads,
                        "accelerator": options.accelerator,
                        "seed": seed,
                    }
                    seen.extend(measure([{**whole, **task} for task in group], options))
                write(about, commands, results, options.out)


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Say what results depend on beside their task."""
    device = f"{torch.cuda.get_device_name()}, " if options.accelerator == "gpu" else ""
    return {
        "machine": f"{device}{processor()}, {os.cpu_count()} cores, {platform.system()}",
        "threads": options.threads,
        "wait_policy": options.wait_policy,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "lightning": L.__version__},
    }


def earlier(path: Path, about: dict[str, Any]) -> tuple[list[str], Results]:
    """Return the commands and the results of the rounds that are there already, if they were made alike."""
    if not path.is_file():
        return [], {}
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["about"] != about:
        sys.exit(f"--add: {path} is of {record['about']}, and this would be of {about}; give another --out")
    return record["commands"], record["results"]


def write(about: dict[str, Any], commands: list[str], results: Results, out: Path) -> None:
    """Write numbers, tables and plot; an interrupted run has not been for nothing."""
    out.mkdir(parents=True, exist_ok=True)
    in_order = {section: results[section] for section in SECTIONS if section in results}
    record = {"about": about, "commands": commands, "results": in_order}
    (out / "speed.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (out / "speed.md").write_text(speed_report.markdown(about, commands, in_order), encoding="utf-8")
    speed_report.draw(in_order, out / "speed.png")


def processor() -> str:
    """Name the processor."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def main(words: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_dir = os.environ.get("ARCFACE_PL_DATA_DIR", "data")
    parser.add_argument("--data_dir", type=Path, default=default_dir, help="folder that holds MNIST/raw/")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num_images", type=int, default=60_000, help="training images to use")
    parser.add_argument("--epochs", type=int, default=10, help="of the long runs in the section accuracy")
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=[*COMPARED, "accurate"],
        default=list(COMPARED),
        help="of the sections throughput and accuracy",
    )
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu", help="gpu: fast and accurate only")
    parser.add_argument("--add", action="store_true", help="keep what --out holds, and add these rounds to it")
    parser.add_argument("--wait_policy", choices=("active", "passive"), help="OMP_WAIT_POLICY of every contender")
    parser.add_argument("--out", type=Path, default=HERE.parent / "figures", help="folder for the three files")
    parser.add_argument("--profile", metavar="CONTENDER", help="say where the time of one contender's epoch goes")
    options = parser.parse_args(words)
    options.words = sys.argv[1:] if words is None else words
    if options.accelerator == "gpu" and (
        options.sections != ["accuracy"] or not set(ON_A_GPU).issuperset(options.contenders)
    ):
        parser.error("--accelerator gpu: expected --sections accuracy --contenders " + " ".join(ON_A_GPU))
    if options.profile:
        with tempfile.TemporaryDirectory() as folder:
            unpack(options.data_dir, Path(folder))
            task = {"contender": options.profile, "data_dir": folder, "threads": options.threads}
            measure([{**task, "num_images": options.num_images, "profile": True}], options)
        return
    run(options)
    print((options.out / "speed.md").read_text(encoding="utf-8"))
    print(f"also in {options.out}/speed.json and speed.png")


if __name__ == "__main__":
    main()
