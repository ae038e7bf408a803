"""A head sharded over ranks is the whole head: here with threads as ranks, in test_sharded.py with processes."""

import copy
from typing import Any

import pytest
import torch
from thread_ranks import ThreadGroup, on_ranks
from torch import Tensor

from arcface_pl.heads import HEADS, AngularHead, ShardedHead, shard_head

CLASSES, DIM, SIZE = 11, 8, 12
ANGULAR = [name for name, head in HEADS.items() if issubclass(head, AngularHead)]


def build(name: str = "ArcFaceHead", **options: Any) -> AngularHead:
    torch.manual_seed(0)
    return HEADS[name](DIM, CLASSES, **options).double()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    embeddings = 10 * torch.randn(SIZE, DIM, generator=generator, dtype=torch.float64)
    return embeddings, torch.randint(CLASSES, (SIZE,), generator=generator)


def part(group: ThreadGroup) -> slice:
    """A rank's samples, of uneven number."""
    ends = [SIZE * rank * (rank + 1) // (group.size * (group.size + 1)) for rank in range(group.size + 1)]
    return slice(ends[group.rank], ends[group.rank + 1])


def sharded(head: AngularHead, group: ThreadGroup) -> ShardedHead:
    """A copy of ``head`` on a rank; `shard_head` itself asks torch.distributed which ranks there are."""
    mine = shard_head(copy.deepcopy(head))
    mine._begin(group, 1.0)
    return mine


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[(name, {"sigma": 0.0} if name == "ElasticFaceHead" else {}) for name in ANGULAR],
        ("ArcFaceHead", {"scale": 1000.0, "label_smoothing": 0.1, "sub_centers": 2}),
        ("CosFaceHead", {"scale": "learnable", "label_smoothing": 0.1}),
    ],
    ids=str,
)
def test_losses_and_gradients_are_the_whole_heads(name: str, options: dict[str, Any], world: int) -> None:
    head, (embeddings, labels) = build(name, **options).eval(), batch()
    embeddings.requires_grad_()
    losses = head.loss(embeddings, labels, "none")
    expected = torch.autograd.grad(losses.sum(), (embeddings, *head.parameters()))

    def work(group: ThreadGroup) -> tuple[Tensor, ...]:
        mine, rows = sharded(head, group), part(group)
        inputs = embeddings.detach()[rows].requires_grad_()
        loss = mine.loss(inputs, labels[rows], "none")
        first, *gradients = torch.autograd.grad(loss.sum(), (inputs, *mine.parameters()))
        weight = mine.whole(gradients[0]) * world  # the mean over ranks
        return loss.detach(), first, weight, *(group.sum(each) for each in gradients[1:])

    each = on_ranks(world, work)
    torch.testing.assert_close(torch.cat([result[0] for result in each]), losses.detach())
    torch.testing.assert_close(torch.cat([result[1] for result in each]), expected[0])
    for result in each:
        torch.testing.assert_close(result[2:], expected[1:])


@pytest.mark.parametrize("gathered", [False, True])
def test_predictions_and_scores_need_the_centers_of_all(gathered: bool) -> None:
    head, (embeddings, labels) = build(sub_centers=2).eval(), batch()
    with torch.no_grad():
        expected = head(embeddings, labels), *head.predict(embeddings), *head.score(embeddings, labels)

    @torch.no_grad()
    def work(group: ThreadGroup) -> tuple[Tensor, ...]:
        mine, rows = sharded(head, group), part(group)
        if gathered:
            mine.gather_centers()
            group.barrier = None  # no call may wait for another rank any more
        images, targets = embeddings[rows], labels[rows]
        return mine(images, targets), *mine.predict(images), *mine.score(images, targets)

    for got, want in zip(zip(*on_ranks(2, work), strict=True), expected, strict=True):
        torch.testing.assert_close(torch.cat(got), want)


def test_the_state_is_the_whole_heads_and_loads_on_any_number_of_ranks() -> None:
    head, other = build(margin_warmup_epochs=1, class_margins="frequency"), build(class_margins="frequency")
    head.set_class_counts(torch.arange(CLASSES) + 1)
    torch.nn.init.normal_(other.weight)

    def work(group: ThreadGroup) -> dict[str, Tensor]:
        mine = sharded(other, group)
        mine.load_state_dict(head.state_dict())
        assert len(mine.weight) in (CLASSES // group.size, CLASSES // group.size + 1)
        assert torch.equal(mine.weight, mine.share(head.weight))
        return mine.state_dict()

    for world in (1, 2, 3):
        for state in on_ranks(world, work):
            torch.testing.assert_close(state, head.state_dict(), rtol=0, atol=0)


def test_a_graph_can_be_drawn_on_one_rank_alone() -> None:
    head, (embeddings, _) = build(sub_centers=2).eval(), batch()

    def work(group: ThreadGroup) -> torch.Size:
        mine = sharded(head, group)
        if group.rank == 0:
            with mine.shapes_only():
                return mine(embeddings).shape
        return torch.Size()

    assert on_ranks(2, work)[0] == (SIZE, CLASSES)
