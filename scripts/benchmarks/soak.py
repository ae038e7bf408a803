"""Kill a training run again and again, resume it, and compare it with the run that nobody disturbed, bit for bit.

    python scripts/benchmarks/soak.py --kills 20 --data.dataset mnist --max_epochs 3
    python scripts/benchmarks/soak.py --minutes 5 --data.dataset digits --max_epochs 20

Flags that it does not know go to `fit`. Each life of the run ends by SIGKILL, after a time that is drawn from a printed
seed: while it starts, or while it trains, saves or validates. Weights, optimizer, schedule and final scores must be
those of the undisturbed run. It exits with code 1 where they are not.
"""

import argparse
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from arcface_pl.checkpoints.reading import read_checkpoint

FIT = Path(__file__).parents[1] / "fit.py"
MEASURED = ("checkpoint", "fit_seconds", "versions")
STARTING = 0.2  # share of the kills that come before training has begun


class Life:
    """One process of the run, from its start to its end."""

    def __init__(self, root: Path, flags: list[str]) -> None:
        saved = list(root.glob("lightning_logs/*/checkpoints/last.ckpt"))
        resume = ["--ckpt_path", str(saved[0])] if saved else []
        command = [sys.executable, str(FIT), "--default_root_dir", str(root), *flags, *resume]
        self.begun, self.resumed, self.training = time.monotonic(), bool(saved), threading.Event()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith("╰"):  # the box that says what will run is closed
                self.training.set()
        self.training.set()

    def kill_after(self, seconds: float, training: bool) -> bool:
        """Kill it so many seconds after its start, or after training began; returns whether it was still alive."""
        if training:
            self.training.wait()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.end() == -signal.SIGKILL

    def end(self) -> int:
        """Wait for its end; returns the exit code."""
        code = self.process.wait()
        self._reader.join()
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"a life ended with code {code}:\n{''.join(self.said[-20:])}")
        return code


def outcome(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the last checkpoint and the scores of the finished run below ``root``."""
    (path,) = root.glob("lightning_logs/*/checkpoints/last.ckpt")
    (results,) = root.glob("lightning_logs/*/results.json")
    return read_checkpoint(path), json.loads(results.read_text())


def differences(one: Any, other: Any, name: str) -> list[str]:
    """Name every number below two nodes that is not the same in both."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [name]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [each for key in one for each in differences(one[key], other[key], f"{name}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [each for place, (a, b) in pairs for each in differences(a, b, f"{name}.{place}")]
    return [] if one == other else [name]


def undisturbed(root: Path, flags: list[str]) -> tuple[float, float]:
    """Run once to the end; returns the seconds until training began and those from then on."""
    life = Life(root, flags)
    life.training.wait()
    starting = time.monotonic() - life.begun
    life.end()
    return starting, time.monotonic() - life.begun - starting


def disturbed(
    root: Path, flags: list[str], seconds: tuple[float, float], draw: random.Random, options: argparse.Namespace
) -> tuple[int, int]:
    """Run with kills until it has ended; returns how many there were, and how many lives went on from a checkpoint."""
    kills, resumed = 0, 0
    until = time.monotonic() + 60 * (options.minutes or 0)
    while kills < options.kills if options.minutes is None else time.monotonic() < until:
        life = Life(root, flags)
        resumed += life.resumed
        training = draw.random() >= STARTING
        span = seconds[1] / (options.kills if options.minutes is None else 10) if training else seconds[0]
        if not life.kill_after(draw.uniform(0, span), training):
            break  # it came to its end
        kills += 1
        print(f"kill {kills}: {'training' if training else 'starting'}", flush=True)
    else:
        life = Life(root, flags)
        resumed += life.resumed
        life.end()
    return kills, resumed


def main() -> None:
    """Run undisturbed, run with kills, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs, unless --minutes is given (default: 20)")
    parser.add_argument("--minutes", type=float, default=None, help="kill for so long instead")
    parser.add_argument("--seed", type=int, default=None, help="of the moments (default: drawn, and printed)")
    parser.add_argument("--every_n_minutes", type=float, default=0.02, help="between checkpoints (default: 0.02)")
    options, flags = parser.parse_known_args()
    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        policy = {"class_path": "RunCheckpoint", "init_args": {"every_n_minutes": options.every_n_minutes}}
        overlay = Path(folder) / "soak.yaml"
        overlay.write_text(yaml.safe_dump({"trainer": {"enable_progress_bar": False, "callbacks": [policy]}}))
        flags = ["--config", str(overlay), *flags]
        roots = Path(folder) / "undisturbed", Path(folder) / "disturbed"
        seconds = undisturbed(roots[0], flags)
        print(f"undisturbed: {seconds[0]:.0f} s to start, {seconds[1]:.0f} s to train and test", flush=True)
        kills, resumed = disturbed(roots[1], flags, seconds, random.Random(seed), options)
        (expected, scores), (found, found_scores) = outcome(roots[0]), outcome(roots[1])
        wrong = [
            *(each for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")
              for each in differences(expected.get(key), found.get(key), key)),
            *(key for key in scores if key not in MEASURED and scores[key] != found_scores.get(key)),
        ]  # fmt: skip
    print(f"{kills} kills, {resumed} lives went on from a checkpoint, step {found['global_step']}")
    print(f"differs: {', '.join(wrong)}" if wrong else "equal bit for bit: weights, optimizer, schedule and scores")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
