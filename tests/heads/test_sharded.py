"""Sharing the classes among processes changes nothing but where the centers are."""

import copy
import os
import pickle
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from arcface_pl.heads import HEADS, AngularHead, ShardedHead, shard_head

DIM, STEPS = 8, 10
Case = tuple[str, int, dict[str, Any], str, torch.dtype]
ANGULAR = [name for name, head in HEADS.items() if issubclass(head, AngularHead)]
QUICK: list[Case] = [("ArcFaceHead", 11, {}, "SGD", torch.float32)]
CASES: list[Case] = [
    # In float64 whatever is not rounding would show
    *[(name, 11, {"sigma": 0.0} if name == "ElasticFaceHead" else {}, "SGD", torch.float64) for name in ANGULAR],
    ("ArcFaceHead", 11, {"sub_centers": 3, "label_smoothing": 0.1}, "Adam", torch.float64),
    (
        "CosFaceHead",
        3,
        {"scale": 100.0, "class_margins": "frequency", "margin_warmup_epochs": 1.0},
        "AdamW",
        torch.float64,
    ),
    ("ArcFaceHead", 11, {"scale": "learnable", "class_weights": "balanced"}, "SGD", torch.float64),
    ("CosFaceHead", 23001, {"scale": "learnable", "label_smoothing": 0.1}, "SGD", torch.float64),
    ("NormalizedSoftmaxHead", 11, {"scale": "adacos_dynamic", "sub_centers": 2}, "SGD", torch.float64),
    ("CurricularFaceHead", 23001, {"momentum": 0.9}, "SGD", torch.float64),
    ("ArcFaceHead", 23001, {"sub_centers": 2, "scale": 96.0}, "SGD", torch.float64),
    ("ArcFaceHead", 11, {}, "in backward", torch.float64),
    ("ArcFaceHead", 23001, {}, "in backward", torch.float32),
    ("ArcFaceHead", 11, {"sub_centers": 2}, "AdamW in backward", torch.float64),
    ("CosFaceHead", 23001, {"label_smoothing": 0.1}, "SGD", torch.float64),
    ("CosFaceHead", 23001, {"label_smoothing": 0.1}, "SGD", torch.float32),
]


class Net(nn.Module):
    """A backbone and a head, as Lightning's DDP sees them; returns the loss."""

    _ddp_params_and_buffers_to_ignore = ("head.weight",)

    def __init__(self, head: AngularHead) -> None:
        super().__init__()
        self.backbone = nn.Linear(DIM, DIM)
        self.head = head

    def forward(self, images: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        return self.head.loss(self.backbone(images), labels, reduction)


def net(case: Case) -> Net:
    torch.manual_seed(0)
    name, classes, kwargs, _, dtype = case
    made = Net(HEADS[name](DIM, classes, **kwargs)).to(dtype)
    made.head.set_class_counts(torch.arange(classes) + 1)
    return made


def optimizer_for(case: Case, made: Net) -> torch.optim.Optimizer:
    if case[3] in ("SGD", "in backward"):
        return torch.optim.SGD(made.parameters(), lr=0.01, momentum=0.9)
    return getattr(torch.optim, case[3].split()[0])(made.parameters(), lr=0.001)


def batches(step: int, case: Case, world: int) -> list[tuple[Tensor, Tensor]]:
    """What each process has at a step; processes may differ, and the last batch is short."""
    generator = torch.Generator().manual_seed(step)
    sizes = (
        [1 + rank for rank in range(world)]
        if step == STEPS - 1
        else [6 if step % 2 else 6 - rank for rank in range(world)]
    )
    return [
        (
            8 * torch.randn(size, DIM, generator=generator).to(case[4]),
            torch.randint(case[1], (size,), generator=generator),
        )
        for size in sizes
    ]


def train(case: Case, made: Net, loss_of: Callable[[int], Tensor]) -> dict[str, Any]:
    optimizer = optimizer_for(case, made)
    if "in backward" in case[3] and isinstance(made.head, ShardedHead):
        made.head.update_in_backward(optimizer)
    losses, gradient = [], None
    for step in range(STEPS):
        made.head.set_progress(epoch=step / 5, step=step, seed=0)
        optimizer.zero_grad()
        loss = loss_of(step)
        loss.backward()
        if step == 0 and made.head.weight.grad is not None:
            gradient = made.head.weight.grad.clone(), made.backbone.weight.grad.clone()
        optimizer.step()
        losses.append(loss.detach())
    return {"losses": torch.stack(losses), "gradient": gradient, "optimizer": optimizer}


def alone(case: Case, world: int) -> tuple[Net, dict[str, Any]]:
    """One process with all classes and the batches of all: the mean over processes of the mean over their samples."""
    made = net(case)

    def loss_of(step: int) -> Tensor:
        parts = batches(step, case, world)
        images, labels = (torch.cat(list(part)) for part in zip(*parts, strict=True))
        losses = made(images, labels, "none").split([len(part[1]) for part in parts])
        return torch.stack([each.mean() for each in losses]).mean()

    return made, train(case, made, loss_of)


def begin(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", store, timedelta(seconds=60), world_size=world, rank=rank)


def together(rank: int, world: int, folder: str, cases: list[Case]) -> None:
    begin(rank, world, folder)
    results = []
    for case in cases:
        made = net(case)
        head = shard_head(made.head)
        wrapped = DistributedDataParallel(made)
        result = train(case, made, lambda step, case=case, wrapped=wrapped: wrapped(*batches(step, case, world)[rank]))
        gradient, optimizer = result["gradient"], result.pop("optimizer")
        if gradient is not None:
            result["gradient"] = head.whole(gradient[0]), gradient[1]
        images, labels = batches(99, case, world)[rank]
        made.eval()
        result["rows"] = len(head.weight)
        result["state"] = made.state_dict()
        result["moments"] = {
            key: head.whole(value)
            for key, value in optimizer.state[head.weight].items()
            if value.shape == head.weight.shape
        }
        with torch.no_grad():
            result["predictions"] = head(images), head(images, labels), head.cosine(images), head.loss(images, labels)
            head.begin_turns()
            calls = head(images), head(images, labels), head.cosine(images), head.loss(images, labels)
            if rank == 0:  # and the others take part
                torch.testing.assert_close(head(images), calls[0])
            head.end_turns()
        torch.testing.assert_close(calls, result["predictions"], rtol=1e-6, atol=1e-6)
        for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
            assert type(other) is type(head)
            assert torch.equal(other.weight, head.weight)
            assert torch.equal(other.loss(images, labels), head.loss(images, labels))
        results.append(result)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def assert_near(got: dict[str, Tensor], expected: dict[str, Tensor], case: Case) -> None:
    """Equal to 1e-12 of the largest entry, or of 1; in float32 up to the rounding of a sum over classes."""
    assert got.keys() == expected.keys()
    rounding = torch.finfo(torch.float32).eps / 2 * case[1] ** 0.5  # a random walk: 9e-6 for 23,001 classes
    tolerance = max(1e-6, rounding) if case[4] == torch.float32 else 1e-12
    for key, value in expected.items():
        error = (got[key] - value).abs().max() / value.abs().max().clamp_min(1)
        assert error <= tolerance, f"{case}: {key} is off by {error:.2g}"


def compare(folder: Path, world: int, cases: list[Case]) -> None:
    mp.spawn(together, args=(world, str(folder), cases), nprocs=world)
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]
    for number, case in enumerate(cases):
        made, expected = alone(case, world)
        parts = [results[number] for results in ranks]
        losses = torch.stack([part["losses"] for part in parts]).mean(dim=0)
        assert_near({"losses": losses}, {"losses": expected["losses"]}, case)
        assert sum(part["rows"] for part in parts) == len(made.head.weight)
        assert max(part["rows"] for part in parts) <= -(-case[1] // world) * made.head.sub_centers
        moments = expected["optimizer"].state[made.head.weight]
        made.eval()
        for rank, part in enumerate(parts):
            if part["gradient"] is not None:
                gradients = (dict(zip("wb", pair, strict=True)) for pair in (part["gradient"], expected["gradient"]))
                assert_near(*gradients, case)
            assert_near(part["state"], dict(made.state_dict()), case)
            assert_near(part["moments"], {key: moments[key] for key in part["moments"]}, case)
            made.load_state_dict(part["state"])
            images, labels = batches(99, case, world)[rank]
            with torch.no_grad():
                calls = made.head(images), made.head(images, labels), made.head.cosine(images)
                assert part["predictions"][0].shape == (len(images), case[1])
                torch.testing.assert_close(part["predictions"][:3], calls)
                torch.testing.assert_close(part["predictions"][3], made.head.loss(images, labels))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_two_processes_equal_one(tmp_path: Path) -> None:
    compare(tmp_path, 2, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("world", [2, 3])
def test_every_head_and_setting_equals_one_process(tmp_path: Path, world: int) -> None:
    compare(tmp_path, world, CASES)


def sampled(rank: int, world: int, folder: str) -> None:
    begin(rank, world, folder)
    case: Case = ("CurricularFaceHead", 300, {"sub_centers": 2, "momentum": 0.5}, "SGD", torch.float64)
    head = shard_head(net(case).head, sample_rate=0.1)
    head.set_progress(epoch=0.0, step=7, seed=0)
    embeddings, labels = batches(0, case, world)[rank]
    embeddings.requires_grad_()
    loss = head.loss(embeddings, labels)
    loss.backward()
    grad = head.weight.grad.coalesce()
    first = 2 * (300 * rank // world)
    parts = (loss.detach(), embeddings.grad, grad.indices()[0] + first, grad.values(), head.whole(head.weight), labels)
    torch.save(parts, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_sampled_shares_are_one_head_with_the_classes_that_were_drawn(tmp_path: Path) -> None:
    mp.spawn(sampled, args=(2, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    rows = torch.cat([rank[2] for rank in ranks])
    classes = rows[::2] // 2
    assert [len(rank[2]) for rank in ranks] == [30, 30]
    assert not torch.equal(ranks[0][2], ranks[1][2] - 300)  # a draw of its own in each process
    case: Case = ("CurricularFaceHead", 300, {}, "SGD", torch.float64)
    small = HEADS["CurricularFaceHead"](DIM, len(classes), sub_centers=2, momentum=0.5).double()
    small.weight.data = ranks[0][4][rows].clone()
    embeddings = torch.cat([images for images, _ in batches(0, case, 2)]).requires_grad_()
    labels = torch.searchsorted(classes, torch.cat([rank[5] for rank in ranks]))
    losses = small.loss(embeddings, labels, reduction="none").split([len(rank[5]) for rank in ranks])
    torch.stack([each.mean() for each in losses]).mean().backward()
    for rank, expected in zip(ranks, losses, strict=True):
        torch.testing.assert_close(rank[0], expected.mean())
    torch.testing.assert_close(torch.cat([rank[1] for rank in ranks]) / 2, embeddings.grad)
    torch.testing.assert_close(torch.cat([rank[3] for rank in ranks]), small.weight.grad)
