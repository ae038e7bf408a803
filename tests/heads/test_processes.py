"""Running averages and random margins on two processes."""

import os
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp

from arcface_pl.heads import AdaFaceHead, CurricularFaceHead, ElasticFaceHead

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SHARES = (slice(0, 7), slice(7, 12))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return 10 * torch.randn(12, 8, generator=generator), torch.arange(12) % 5


def heads() -> list[AdaFaceHead | CurricularFaceHead | ElasticFaceHead]:
    torch.manual_seed(0)
    return [AdaFaceHead(8, 5, momentum=0.5), CurricularFaceHead(8, 5, momentum=0.5), ElasticFaceHead(8, 5)]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    embeddings, labels = (value[SHARES[rank]] for value in batch())
    result = {}
    for head in heads():
        result[type(head).__name__] = head.loss(embeddings, labels, reduction="none").detach(), head.state_dict()
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_running_averages_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    embeddings, labels = batch()
    for head in heads():
        whole = head.loss(embeddings, labels, reduction="none")
        losses, states = zip(*(part[type(head).__name__] for part in parts), strict=True)
        if isinstance(head, ElasticFaceHead):
            torch.testing.assert_close(losses[0], whole[SHARES[0]])  # rank 0 draws what a single process does
            assert not torch.allclose(losses[1], whole[SHARES[1]])
            continue
        torch.testing.assert_close(torch.cat(losses), whole)
        for state in states:
            torch.testing.assert_close(state, head.state_dict())
