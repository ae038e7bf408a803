"""A head sharded over ranks is the whole head: here with threads as ranks, in test_sharded.py with processes."""

import copy
from typing import Any

import pytest
import torch
from thread_ranks import ThreadGroup, on_ranks
from tiny_runs import Largest
from torch import Tensor

from arcface_pl.heads import HEADS, AngularHead, ArcFaceHead, ShardedHead, deferred_centers, shard_head

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
    mine = copy.deepcopy(head)
    mine.__class__ = type(shard_head(copy.deepcopy(head)))
    assert isinstance(mine, ShardedHead)
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


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[(name, {}) for name in ANGULAR if name != "ElasticFaceHead"],
        ("ElasticFaceHead", {"sigma": 0.0}),
        ("ArcFaceHead", {"sub_centers": 2, "label_smoothing": 0.1, "scale": 1000.0}),
        ("CurricularFaceHead", {"sub_centers": 3, "scale": 100.0}),
        ("CosFaceHead", {"scale": "learnable", "class_weights": [0.5] * CLASSES}),
    ],
    ids=str,
)
def test_predictions_and_scores_are_the_whole_heads(name: str, options: dict[str, Any], world: int) -> None:
    head, (embeddings, labels) = build(name, **options).eval(), batch()
    with torch.no_grad():
        expected = head(embeddings, labels), *head.predict(embeddings), *head.score(embeddings, labels)

    @torch.no_grad()
    def work(group: ThreadGroup) -> tuple[Tensor, ...]:
        mine, rows = sharded(head, group), part(group)
        images, targets = embeddings[rows], labels[rows]
        return mine(images, targets), *mine.predict(images), *mine.score(images, targets)

    for got, want in zip(zip(*on_ranks(world, work), strict=True), expected, strict=True):
        torch.testing.assert_close(torch.cat(got), want)


@pytest.mark.parametrize("name", ANGULAR)
def test_ranks_with_other_numbers_of_batches_take_part_in_those_of_the_others(name: str) -> None:
    """Rank 0 has no batch, rank 1 one, and rank 2 two: each call of a rank is with whoever has one left."""
    head, (embeddings, labels) = build(name, **({"sigma": 0.0} if name == "ElasticFaceHead" else {})).eval(), batch()
    chunks = [[], [slice(0, 3)], [slice(3, 9), slice(9, 12)]]
    whole = [head.score(embeddings[rows], labels[rows]) for rows in (slice(0, 3), slice(3, 9), slice(9, 12))]
    with torch.no_grad():
        logits, losses = head(embeddings, labels), head.loss(embeddings, labels, "none")

    def work(group: ThreadGroup) -> list[Tensor]:
        mine, found = sharded(head, group), []
        for _ in range(2):  # as two validations
            mine.begin_turns()
            for rows in chunks[group.rank]:
                images, targets = embeddings[rows], labels[rows]
                found += mine.score(images, targets)
                assert mine.cosine(images).shape == (len(images), CLASSES)
                assert torch.equal(mine.predict(images)[0], found[-6])
                with torch.no_grad():
                    torch.testing.assert_close(mine(images, targets), logits[rows])
                    torch.testing.assert_close(mine.loss(images, targets, "none"), losses[rows])
                assert len(mine.centers()) == CLASSES
            mine.end_turns()
            group.sum(torch.zeros(1))  # as the callbacks at the end of a validation
        return found

    found = on_ranks(3, work)
    for rank, expected in ((0, []), (1, [*whole[0]] * 2), (2, [*whole[1], *whole[2]] * 2)):
        torch.testing.assert_close(found[rank], expected)


def test_ranks_that_call_something_else_are_told() -> None:
    head, (embeddings, labels) = build().eval(), batch()

    def work(group: ThreadGroup) -> None:
        mine = sharded(head, group)
        mine.begin_turns()
        with pytest.raises(
            RuntimeError, match="sharded head: got 'predict and score at once'; expected the same calls"
        ):
            mine.predict(embeddings) if group.rank else mine.score(embeddings, labels)

    on_ranks(2, work)


def test_scores_and_losses_keep_to_the_rows_of_their_rank() -> None:
    """No tensor has as many numbers as the centers of all ranks."""
    torch.manual_seed(0)
    head, (embeddings, labels) = ArcFaceHead(DIM, 30_000).eval(), batch()

    def work(group: ThreadGroup) -> int:
        mine, rows = sharded(head, group), part(group)
        with Largest() as largest:
            inputs = embeddings[rows].float().requires_grad_()
            mine.loss(inputs, labels[rows]).backward()
            mine.score(inputs, labels[rows])
            mine.predict(inputs)
            with torch.no_grad():
                mine.target_angle(inputs, labels[rows])
        return largest.numel

    for numel in on_ranks(3, work):
        assert numel <= 10_000 * max(DIM, SIZE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deferred_centers_are_the_rows_that_the_whole_head_draws(dtype: torch.dtype) -> None:
    def made(classes: int, dim: int) -> tuple[AngularHead, Tensor]:
        torch.manual_seed(0)
        return ArcFaceHead(dim, classes, sub_centers=2), torch.rand(4)

    torch.set_default_dtype(dtype)
    try:
        for classes, dim in ((11, 8), (3001, 1000)):  # the second draws several blocks
            whole, after = made(classes, dim)
            with deferred_centers():
                later, same = made(classes, dim)
            assert torch.equal(after, same)
            assert later.weight.is_meta
            with Largest() as largest:
                later.postponed.take(slice(0, 1), dtype)  # type: ignore[union-attr]
            assert largest.numel <= 1 << 20

            def work(group: ThreadGroup, later: AngularHead = later) -> ShardedHead:
                return sharded(later, group)

            for head in on_ranks(3, work):
                assert torch.equal(head.weight, head.share(whole.weight))
                assert head.weight.requires_grad
            later.draw_centers()
            assert torch.equal(later.weight, whole.weight)
    finally:
        torch.set_default_dtype(torch.float32)


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
