"""Say what each ingredient of --config accurate or fast brings: train without it, a few seeds each.

    python scripts/benchmarks/ablations.py --seeds 0 1 --max_epochs 8
    python scripts/benchmarks/ablations.py --only whole "no bending"
    python scripts/benchmarks/ablations.py --recipe fast --seeds 0 1 2 3 4 --jobs 2

A sixth of the training images is set aside for validation, and accuracy is measured there: the test set has no part in
what a recipe is made of. Each run is `scripts/fit.py` with flags, in a folder of its own. Writes
ablations_RECIPE.md and ablations_RECIPE.json.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from arcface_pl.cli.report import versions

HERE = Path(__file__).parents[1]
Run = dict[str, Any]
COMMON: dict[str, list[str]] = {
    "whole": [],
    "no margin": ["--model.head.margin", "0"],
    "plain softmax": ["--model.head", "LinearHead"],
    "float32": ["--precision", "32-true"],
    "the original network": ["--model.backbone", "SimpleCNN"],
}
VARIANTS: dict[str, dict[str, list[str]]] = {
    "accurate": COMMON
    | {
        "margin 0.5, scale 30": ["--model.head.margin", "0.5", "--model.head.scale", "30"],
        "no bending": ["--data.elastic", "0"],
        "no augmentation": ["--data.augment", "false"],
        "no average of the weights": [
            "--trainer.callbacks",
            "[{class_path: ExponentialMovingAverage, init_args: {decay: 0.0}}]",
        ],
        "no weight decay": ["--model.optimizer.weight_decay", "0"],
        "no residual blocks": ["--model.backbone.num_blocks", "0"],
        "half as wide": ["--model.backbone.width", "80"],
    },
    "fast": COMMON
    | {
        "margin 0.3, scale 16": ["--model.head.margin", "0.3", "--model.head.scale", "16"],
        "a constant rate": ["--model.lr_schedule", "null"],
        "Adam's own betas": ["--model.optimizer.betas", "[0.9, 0.999]"],
        "half the rate": ["--model.optimizer.lr", "0.01"],
        "batches of 128": ["--data.batch_size", "128"],
        "twice as wide": ["--model.backbone.width", "64"],
        "with augmentation": ["--data.augment", "true"],
        "two epochs": ["--max_epochs", "2"],
    },
}


def train(name: str, seed: int, options: argparse.Namespace) -> Run:
    """Train once; returns what the run wrote into results.json."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "fit.py"), "--config", options.recipe]
        settings = {"seed_everything": seed, "data.val_fraction": options.val_fraction}
        settings |= {"data.dataset": options.dataset, "enable_progress_bar": "false", "default_root_dir": folder}
        settings |= {} if options.max_epochs is None else {"max_epochs": options.max_epochs}
        words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        # Runs side by side share the cores; where they do not know of one another, each would take all
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // options.jobs))} if options.jobs > 1 else {}
        flags = VARIANTS[options.recipe][name]
        subprocess.run([*command, *words, *flags], check=True, stdout=subprocess.DEVNULL, env={**os.environ, **threads})
        (results,) = Path(folder).glob("lightning_logs/*/results.json")
        found = json.loads(results.read_text(encoding="utf-8"))
        del found["checkpoint"]  # in a temporary folder, of no interest afterwards
        return found


def markdown(command: str, runs: dict[str, list[Run]]) -> str:
    """Write a row for each recipe: mean and range of its seeds, and the difference to the whole one."""
    lines = [
        f"Accuracy on a validation split, mean (and range) of the seeds (`{command}`):",
        "",
        "| recipe | validation accuracy (%) | against the whole | seeds | parameters |",
        "|---|---:|---:|---:|---:|",
    ]
    whole = statistics.mean(run["val/accuracy"] for run in runs["whole"]) if "whole" in runs else None
    for name, seeds in runs.items():
        shares = [run["val/accuracy"] for run in seeds]
        mean = statistics.mean(shares)
        difference = "" if whole is None or name == "whole" else f"{100 * (mean - whole):+.2f}"
        spread = f"{100 * mean:.2f} ({100 * min(shares):.2f} to {100 * max(shares):.2f})"
        parameters = seeds[0]["num_parameters"]
        lines.append(f"| {name} | {spread} | {difference} | {len(seeds)} | {parameters:,} |")
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    """Train every variant with every seed; write after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="accurate", choices=VARIANTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--max_epochs", type=int, help="default: the recipe's")
    parser.add_argument("--val_fraction", type=float, default=1 / 6)
    parser.add_argument("--dataset", default="mnist", choices=("mnist", "digits"), help="digits tries the script")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="variants to train; default: all of the recipe's")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its share of the cores")
    parser.add_argument("--out", type=Path, default=HERE / "figures", help="folder for the two files")
    options = parser.parse_args(words)
    known = VARIANTS[options.recipe]
    if unknown := [name for name in options.only or () if name not in known]:
        parser.error(f"--only: got {unknown[0]!r}, but {options.recipe} accepts {', '.join(known)}")
    options.out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "scripts/benchmarks/ablations.py", *(sys.argv[1:] if words is None else words)])
    cells = [(name, seed) for seed in options.seeds for name in options.only or known]
    runs: dict[str, list[Run]] = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        for (name, seed), run in zip(
            cells, pool.map(lambda cell: train(cell[0], cell[1], options), cells), strict=True
        ):
            runs.setdefault(name, []).append(run)
            print(f"{name}, seed {seed}: {run['val/accuracy']:.4f}", file=sys.stderr, flush=True)
            record = {"command": command, "dataset": options.dataset, "versions": versions(), "runs": runs}
            stem = f"ablations_{options.recipe}"
            (options.out / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            (options.out / f"{stem}.md").write_text(markdown(command, runs), encoding="utf-8")
    print(markdown(command, runs), end="")


if __name__ == "__main__":
    main()
