"""Runs with the head's classes shared: what they write is what runs without sharing write."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from arcface_pl import ArcFaceModule
from arcface_pl.heads import ShardedHead

FIT = Path(__file__).parents[2] / "scripts" / "fit.py"
TWO = ("--devices", "2", "--strategy", "ddp")
SHARED = (*TWO, "--model.shard_head", "true")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def fit(folder: Path, epochs: int, *flags: str) -> tuple[dict[str, Any], Path]:
    """Run the script, or go on with the run that is there; returns its last checkpoint and where that is."""
    flags += tuple(f"--ckpt_path={path}" for path in folder.glob("lightning_logs/*/checkpoints/last.ckpt"))
    folder.mkdir(exist_ok=True)
    settings = ["--data.dataset=digits", "--accelerator=cpu", "--enable_progress_bar=false", f"--max_epochs={epochs}"]
    settings += ["--model.lr_schedule=null", "--data.allow_inexact_resume=true", "--model.head.sub_centers=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(FIT), *settings, *flags]
    done = subprocess.run(command, env=environment, cwd=folder, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = folder.glob("lightning_logs/*/checkpoints/last.ckpt")
    return torch.load(path, weights_only=True), path


def assert_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["global_step"] == other["global_step"]
    # Adam divides by the gradient's own size, so rounding of the smallest gradients shows
    torch.testing.assert_close(numbers(one), numbers(other), rtol=1e-4, atol=1e-5)


def numbers(checkpoint: dict[str, Any]) -> list[Any]:
    """Weights, and what the optimizer keeps for them; its groups' names are no numbers to be close."""
    (optimizer,) = checkpoint["optimizer_states"]
    rates = [group["lr"] for group in optimizer["param_groups"]]
    return [checkpoint["state_dict"], optimizer["state"], rates]


def test_checkpoints_are_those_of_a_run_without_sharing_and_serve_any_number_of_processes(tmp_path: Path) -> None:
    plain, _ = fit(tmp_path / "plain", 2, *TWO)
    shared, shared_path = fit(tmp_path / "shared", 2, *SHARED)
    assert shared["state_dict"]["head.weight"].shape == (20, 128)
    assert_alike(shared, plain)
    module = ArcFaceModule.load_from_checkpoint(shared_path)
    assert not isinstance(module.head, ShardedHead)

    shutil.copytree(tmp_path / "plain", tmp_path / "copy")
    assert_alike(fit(tmp_path / "plain", 3, *TWO)[0], fit(tmp_path / "copy", 3, *SHARED)[0])
    alone, _ = fit(tmp_path / "shared", 3, "--devices=1", "--strategy=auto")
    assert alone["epoch"] == 2
    assert alone["global_step"] > shared["global_step"]


@pytest.mark.parametrize("kept", [{"momentum_buffer"}, {"exp_avg", "exp_avg_sq", "step"}], ids=["SGD", "AdamW"])
def test_sampled_and_updated_in_the_backward_pass_resumes_bit_for_bit(tmp_path: Path, kept: set[str]) -> None:
    flags = [*SHARED, "--model.update_head_in_backward=true", "--model.head_sample_rate=0.5", "--data.augment=false"]
    flags += [f"--model.optimizer={'AdamW' if 'step' in kept else 'SGD'}", "--model.optimizer.lr=0.01"]
    flags += [] if "step" in kept else ["--model.optimizer.momentum=0.9"]
    whole, _ = fit(tmp_path / "whole", 2, *flags)
    state = whole["optimizer_states"][0]["state"][len(whole["state_dict"]) - 1]
    assert state.keys() == kept
    assert all(len(value) == 20 for value in state.values())  # rows of both processes
    fit(tmp_path / "stopped", 1, *flags)
    resumed, _ = fit(tmp_path / "stopped", 2, *flags)
    torch.testing.assert_close(numbers(resumed), numbers(whole), rtol=0, atol=0)
