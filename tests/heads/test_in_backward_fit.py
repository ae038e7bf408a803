"""The update in the backward pass under the Trainer: as by torch.optim."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tiny_runs import QUIET
from torch.utils.data import DataLoader, TensorDataset

from arcface_pl import ArcFaceHead, ArcFaceModule, SimpleCNN
from arcface_pl.training.schedules import Cosine

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step`",  # these runs only train
    "ignore:The number of training batches",  # and are shorter than a logging interval
    "ignore:.*does not have many workers",  # tensors in memory need none
)


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=1e-3)


def adamw(params: Any) -> torch.optim.Optimizer:
    # With a tiny eps the sign of a gradient that is only rounding would count
    return torch.optim.AdamW(params, lr=0.01, eps=1e-3)


def make(**arguments: Any) -> ArcFaceModule:
    torch.manual_seed(0)
    return ArcFaceModule(SimpleCNN(16), ArcFaceHead(16, 40), **{"optimizer": sgd, "head_lr": 0.2, **arguments})


def trainer(folder: Path, **arguments: Any) -> L.Trainer:
    return L.Trainer(**{**QUIET, "max_epochs": 2, "default_root_dir": folder, **arguments})


def batches() -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(32, 1, 28, 28, generator=generator), torch.randint(40, (32,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=8)


@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_a_fit_ends_where_the_two_step_version_does(tmp_path: Path, optimizer: Any) -> None:
    parts = []
    for in_backward in (False, True):
        module = make(optimizer=optimizer, lr_schedule=Cosine, update_head_in_backward=in_backward)
        runner = trainer(tmp_path, enable_checkpointing=False)
        runner.fit(module, batches())
        assert (module.head.weight.grad is None) == in_backward
        runner.save_checkpoint(tmp_path / "run.ckpt")
        parts.append(torch.load(tmp_path / "run.ckpt", weights_only=True))
    torch.testing.assert_close(parts[1]["state_dict"], parts[0]["state_dict"], rtol=1e-4, atol=1e-5)
    (one,), (other,) = (part["optimizer_states"] for part in parts)
    torch.testing.assert_close(one["state"], other["state"], rtol=1e-4, atol=1e-5)
    assert one["param_groups"] == other["param_groups"]


MILLION = """
import lightning, torch
from arcface_pl.heads import ArcFaceHead, shard_head

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

torch.set_num_threads(1)
imported = peak()
head = shard_head(ArcFaceHead(128, 1_000_000))
optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
head.update_in_backward(optimizer)
embeddings, labels = torch.randn(256, 128, requires_grad=True), torch.randint(1_000_000, (256,))
before = peak()
head.loss(embeddings, labels).backward()
optimizer.step()
print(imported, before, peak())
"""


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads its memory from Linux's /proc")
def test_a_million_classes_fit_into_little_more_than_their_centers() -> None:
    run = subprocess.run([sys.executable, "-c", MILLION], check=True, timeout=180, capture_output=True, text=True)
    imported, before, after = map(int, run.stdout.split())
    assert before - imported < 2.1 * 512e6  # the centers, and a second time while they are taken from the head
    assert after - before < 0.15 * 512e6
