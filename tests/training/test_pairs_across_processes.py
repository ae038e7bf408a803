"""Extra losses with several processes: pairs of all of them, and the gradients of one process with the whole batch."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs_child import C, D, entries, train
from thread_ranks import ThreadGroup, on_ranks
from torch import Tensor

from arcface_pl.functional.process_group import Group
from arcface_pl.training.extra_losses import ExtraLosses


@pytest.mark.parametrize("sizes", [[6, 6], [5, 2, 3]])
def test_gradients_are_those_of_the_whole_batch_after_ddps_mean(
    sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.randn(sum(sizes), D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(sum(sizes)) % 3  # most pairs are of two processes
    alone = ExtraLosses(entries(), D, C).double()
    embeddings = whole.clone().requires_grad_()
    values = alone(embeddings, labels)
    alone.total(values).backward()

    here = threading.local()
    monkeypatch.setattr(
        "arcface_pl.training.extra_losses.Group",
        lambda alone=False: Group(alone=True) if alone else here.group,
    )
    copies = [ExtraLosses(entries(), D, C).double() for _ in sizes]

    def work(group: ThreadGroup) -> tuple[dict[str, Tensor], Tensor]:
        here.group = group
        mine = group.local(sizes)
        part = whole[mine].clone().requires_grad_()
        found = copies[group.rank](part, labels[mine].int())
        copies[group.rank].total(found).backward()
        assert part.grad is not None
        return found, part.grad

    ranks = on_ranks(len(sizes), work)
    for found, _ in ranks:
        torch.testing.assert_close(found, values, rtol=1e-12, atol=0)
    # What reaches a weight of the network is the sum over its samples, and DDP divides by the number of processes
    torch.testing.assert_close(torch.cat([each for _, each in ranks]) / len(sizes), embeddings.grad, rtol=1e-12, atol=0)
    for copy in copies:
        for name, weight in alone.named_parameters():
            torch.testing.assert_close(dict(copy.named_parameters())[name].grad, weight.grad, rtol=1e-12, atol=0)
        torch.testing.assert_close(copy.state_dict(), alone.state_dict(), rtol=0, atol=0)  # the memory's queue too


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes ended with."""
    folder = tmp_path_factory.mktemp("pairs")
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GLOO_SOCKET_IFNAME": "lo"}
    child = Path(__file__).with_name("pairs_child.py")
    done = subprocess.run(
        [sys.executable, str(child), str(folder)], env=environment, timeout=300, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.timeout(320)
def test_two_processes_learn_what_one_learns_of_both_batches(ranks: list[dict[str, Any]]) -> None:
    alone = train().state_dict()
    for rank in ranks:
        # Only sums in another order differ, in float64
        torch.testing.assert_close(rank["union"], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.timeout(320)
def test_batches_of_pairs_resumed_within_an_epoch_are_those_of_the_uninterrupted_run(
    ranks: list[dict[str, Any]],
) -> None:
    for rank in ranks:
        torch.testing.assert_close(rank["resumed"], rank["whole"], rtol=0, atol=0)
    one, other = (
        {name: value for name, value in rank["whole"].items() if "running" not in name}  # of each process's batch
        for rank in ranks
    )
    torch.testing.assert_close(one, other, rtol=0, atol=0)  # the memory's queue, too
