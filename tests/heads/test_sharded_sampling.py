"""Partial FC: the classes of the batch are always there, and what was not drawn is not touched."""

from typing import Any

import pytest
import torch
from torch import Tensor

from arcface_pl.heads import HEADS, AngularHead, ShardedHead, shard_head

CLASSES, DIM = 200, 8


def make(name: str = "ArcFaceHead", sample_rate: float = 0.1, **kwargs: Any) -> ShardedHead:
    torch.manual_seed(0)
    return shard_head(HEADS[name](DIM, CLASSES, **kwargs), sample_rate=sample_rate)


def batch(size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, DIM, generator=generator), torch.randint(CLASSES, (size,), generator=generator)


def drawn(head: ShardedHead, step: int, labels: Tensor | None = None, seed: int = 0) -> Tensor:
    """The rows that have a gradient at a step."""
    embeddings, default = batch()
    head.weight.grad = None
    head.set_progress(epoch=0.0, step=step, seed=seed)
    head.loss(embeddings, default if labels is None else labels).backward()
    assert head.weight.grad.is_sparse
    return head.weight.grad.coalesce().indices()[0]


@pytest.mark.parametrize("name", [name for name, head in HEADS.items() if issubclass(head, AngularHead)])
@pytest.mark.parametrize("sub_centers", [1, 2])
def test_loss_and_gradients_are_those_of_a_head_with_these_classes_alone(name: str, sub_centers: int) -> None:
    head = make(name, sub_centers=sub_centers, **({"sigma": 0.0} if name == "ElasticFaceHead" else {}))
    embeddings, labels = batch()
    embeddings.requires_grad_()
    head.set_progress(epoch=0.0, step=4, seed=0)
    loss = head.loss(embeddings, labels)
    loss.backward()
    grad = head.weight.grad.coalesce()
    rows = grad.indices()[0]
    classes = rows[::sub_centers] // sub_centers
    assert len(classes) == CLASSES // 10
    small = HEADS[name](DIM, len(classes), **_kwargs(head))
    small.weight.data = head.weight.detach()[rows].clone()
    other = embeddings.detach().clone().requires_grad_()
    expected = small.loss(other, torch.searchsorted(classes, labels))
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(embeddings.grad, other.grad)
    torch.testing.assert_close(grad.values(), small.weight.grad)


def _kwargs(head: AngularHead) -> dict[str, Any]:
    return {name: getattr(head, name) for name in ("margin", "scale", "sub_centers", "sigma") if hasattr(head, name)}


def test_the_draw_is_a_function_of_seed_and_step() -> None:
    head = make()
    rows = drawn(head, step=3)
    torch.rand(5)
    assert torch.equal(rows, drawn(make(), step=3))
    assert not torch.equal(rows, drawn(head, step=4))
    assert not torch.equal(rows, drawn(head, step=3, seed=1))


def test_classes_of_the_batch_are_always_there() -> None:
    _, labels = batch()
    for rate in (0.001, 0.1, 0.5):
        head = make(sample_rate=rate)
        for step in range(5):
            rows = drawn(head, step)
            assert set(labels.tolist()) <= set(rows.tolist())
            assert len(rows) == max(len(labels.unique()), -(-CLASSES * rate // 1))


def test_every_other_class_has_the_same_chance() -> None:
    head = make(sample_rate=0.2)
    labels = torch.zeros(12, dtype=torch.int64)
    counts = torch.zeros(CLASSES)
    for step in range(300):
        counts[drawn(head, step, labels)] += 1
    assert counts[0] == 300
    share = counts[1:] / 300
    assert share.mean().item() == pytest.approx(39 / 199)
    assert (share - 39 / 199).abs().max() < 5 * (0.196 * 0.804 / 300) ** 0.5


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9, "weight_decay": 0.01}])
def test_what_was_not_drawn_keeps_its_center_and_its_momentum(settings: dict[str, float]) -> None:
    """In the backward pass, compared with a dense step on the rows that were drawn."""
    head, plain = make(), make()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, **settings)
    head.update_in_backward(optimizer)
    embeddings, labels = batch()
    velocity = torch.zeros_like(plain.weight)
    for step in range(4):
        head.set_progress(epoch=0.0, step=step, seed=0)
        before = head.weight.detach().clone()
        head.loss(embeddings, labels).backward()
        assert head.weight.grad is None
        plain.weight.data.copy_(before)
        rows = drawn(plain, step)
        untouched = torch.ones(CLASSES, dtype=torch.bool)
        untouched[rows] = False
        assert torch.equal(head.weight[untouched], before[untouched])
        gradient = plain.weight.grad.coalesce().values() + settings.get("weight_decay", 0) * before[rows]
        velocity[rows] = settings.get("momentum", 0) * velocity[rows] + gradient
        torch.testing.assert_close(head.weight[rows], before[rows] - 0.1 * velocity[rows])
        if settings:
            torch.testing.assert_close(optimizer.state[head.weight]["momentum_buffer"], velocity)


def test_sparse_gradients_suit_torchs_own_optimizers() -> None:
    head = make()
    before = head.weight.detach().clone()
    optimizer = torch.optim.SparseAdam(head.parameters(), lr=0.1)
    rows = drawn(head, step=0)
    optimizer.step()
    moved = (head.weight != before).any(dim=1)
    assert torch.equal(moved.nonzero().flatten(), rows)
    assert torch.equal(optimizer.state[head.weight]["exp_avg"].any(dim=1).nonzero().flatten(), rows)


def test_evaluation_knows_all_classes() -> None:
    head = make().eval()
    torch.manual_seed(0)
    whole = HEADS["ArcFaceHead"](DIM, CLASSES).eval()
    embeddings, labels = batch()
    torch.testing.assert_close(head.loss(embeddings, labels), whole.loss(embeddings, labels))
    assert torch.equal(head(embeddings), whole(embeddings))
    assert torch.equal(head(embeddings, labels), whole(embeddings, labels))


def test_training_on_a_tenth_of_the_classes_learns_all() -> None:
    torch.manual_seed(0)
    head, layer = make(), torch.nn.Linear(DIM, DIM)
    optimizer = torch.optim.SGD([*layer.parameters(), *head.parameters()], lr=0.3)
    head.update_in_backward(optimizer)
    images = torch.randn(CLASSES, DIM)
    for step in range(300):
        labels = torch.randint(CLASSES, (64,))
        head.set_progress(epoch=0.0, step=step, seed=0)
        optimizer.zero_grad()
        head.loss(layer(images[labels]), labels).backward()
        optimizer.step()
    assert (head(layer(images)).argmax(dim=1) == torch.arange(CLASSES)).float().mean() > 0.9


def test_wrong_heads_and_rates_are_refused_by_name() -> None:
    for rate in (0, -0.1, 1.5, float("nan"), True):
        with pytest.raises(ValueError, match=r"^sample_rate: got .*; expected a number in \(0, 1\]"):
            make(sample_rate=rate)
    with pytest.raises(ValueError, match="^sample_rate: got 0.1; expected 1 together with label_smoothing"):
        make(label_smoothing=0.1)
    with pytest.raises(ValueError, match="^head: got 'LinearHead'; expected an AngularHead"):
        shard_head(HEADS["LinearHead"](DIM, CLASSES))
    with pytest.raises(ValueError, match="^head: got 'ShardedArcFaceHead'"):
        shard_head(make())
