"""Processes that torchrun starts: one run, and the one that a single process with the same batches would have been."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

FIT = Path(__file__).parents[2] / "scripts" / "fit.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
SETTINGS = """
model: {lr_schedule: null, optimizer: {class_path: SGD, init_args: {lr: 0.02}}}
"""


def fit(folder: Path, *flags: str, launcher: tuple[str, ...] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the script; returns its results and its last checkpoint."""
    folder.mkdir()
    (folder / "sgd.yaml").write_text(SETTINGS)
    quick = ["--config", "sgd.yaml", "--data.dataset", "digits", "--max_epochs", "2", "--enable_progress_bar", "false"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, *launcher, str(FIT), "--accelerator", "cpu", *quick, *flags]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("numbers in lightning_logs/version_0/results.json") == 1
    (run,) = (folder / "lightning_logs").iterdir()
    results = json.loads((run / "results.json").read_text())
    return results, torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_are_one_run_with_the_same_batches(tmp_path: Path) -> None:
    alone, one = fit(tmp_path / "alone", "--data.batch_size", "64")
    together = ("--data.batch_size", "32", "--devices", "2", "--strategy", "ddp")
    for name, more in (("ddp", ()), ("shared", ("--model.shard_head", "true"))):
        results, two = fit(tmp_path / name, *together, *more, launcher=TORCHRUN)
        assert two["global_step"] == one["global_step"]
        torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=0, atol=1e-5)
        # One of the 360 images may lie so near to two classes that the last digits decide
        assert results["test/accuracy"] == pytest.approx(alone["test/accuracy"], abs=1.5 / 360)
        assert alone["test/accuracy"] > 0.2  # guessing has 0.1
        assert results["test/loss"] == pytest.approx(alone["test/loss"], rel=1e-4)
        assert results["num_parameters"] == alone["num_parameters"]
