"""Say what each ingredient of scripts/configs/accurate.yaml brings: train without it, a few seeds each.

    python scripts/benchmarks/ablations.py --seeds 0 1 --max_epochs 8
    python scripts/benchmarks/ablations.py --only whole "no bending"

A sixth of the training images is set aside for validation, and accuracy is measured there: the test set has no part in
what a recipe is made of. Each run is `scripts/fit.py` with flags, in a folder of its own. Writes ablations.md and
ablations.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arcface_pl.cli.report import versions

HERE = Path(__file__).parents[1]
WITHOUT: dict[str, list[str]] = {
    "whole": [],
    "no bending": ["--data.elastic", "0"],
    "no augmentation": ["--data.augment", "false"],
    "no average of the weights": [
        "--trainer.callbacks",
        "[{class_path: ExponentialMovingAverage, init_args: {decay: 0.0}}]",
    ],
    "no margin": ["--model.head.margin", "0"],
    "margin 0.5, scale 30": ["--model.head.margin", "0.5", "--model.head.scale", "30"],
    "plain softmax": ["--model.head", "LinearHead"],
    "no weight decay": ["--model.optimizer.weight_decay", "0"],
    "no residual blocks": ["--model.backbone.num_blocks", "0"],
    "half as wide": ["--model.backbone.width", "80"],
    "float32": ["--precision", "32-true"],
    "the document's network": ["--model.backbone", "SimpleCNN"],
}


def train(flags: Sequence[str], seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train once; returns what the run wrote into results.json."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "fit.py"), "--config", str(HERE / "configs" / "accurate.yaml")]
        common = {"seed_everything": seed, "max_epochs": options.max_epochs, "data.val_fraction": options.val_fraction}
        common |= {"data.dataset": options.dataset, "enable_progress_bar": "false", "default_root_dir": folder}
        words = [word for name, value in common.items() for word in (f"--{name}", str(value))]
        subprocess.run([*command, *words, *flags], check=True, stdout=subprocess.DEVNULL)
        (results,) = Path(folder).glob("lightning_logs/*/results.json")
        return json.loads(results.read_text(encoding="utf-8"))


def markdown(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Write a row for each recipe: mean and range of its seeds, the difference to the whole one, seconds."""
    lines = [
        "| recipe | validation accuracy (%) | against the whole | parameters | seconds |",
        "|---|---:|---:|---:|---:|",
    ]
    whole = statistics.mean(run["val/accuracy"] for run in runs["whole"]) if "whole" in runs else None
    for name, seeds in runs.items():
        shares = [run["val/accuracy"] for run in seeds]
        mean = statistics.mean(shares)
        difference = "" if whole is None or name == "whole" else f"{100 * (mean - whole):+.2f}"
        seconds = statistics.mean(run["fit_seconds"] for run in seeds)
        spread = f"{100 * mean:.2f} ({100 * min(shares):.2f} to {100 * max(shares):.2f})"
        lines.append(f"| {name} | {spread} | {difference} | {seeds[0]['num_parameters']:,} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    """Train every recipe with every seed; write after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--max_epochs", type=int, default=8)
    parser.add_argument("--val_fraction", type=float, default=1 / 6)
    parser.add_argument("--dataset", default="mnist", choices=("mnist", "digits"), help="digits tries the script")
    parser.add_argument("--only", nargs="+", choices=WITHOUT, default=list(WITHOUT))
    parser.add_argument("--out", type=Path, default=HERE / "figures", help="folder for the two files")
    options = parser.parse_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for name in options.only:
            runs.setdefault(name, []).append(train(WITHOUT[name], seed, options))
            print(f"{name}, seed {seed}: {runs[name][-1]['val/accuracy']:.4f}", file=sys.stderr, flush=True)
            record = {
                "max_epochs": options.max_epochs,
                "dataset": options.dataset,
                "versions": versions(),
                "runs": runs,
            }
            (options.out / "ablations.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            (options.out / "ablations.md").write_text(markdown(runs), encoding="utf-8")
    print(markdown(runs), end="")


if __name__ == "__main__":
    main()
