"""Centers that move inside the backward pass end where torch.optim would have put them, by SGD, Adam or AdamW."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from arcface_pl.heads import HEADS, AngularHead, ShardedHead, shard_head

angular_heads = pytest.mark.parametrize("name", [name for name, head in HEADS.items() if issubclass(head, AngularHead)])


def start(name: str = "ArcFaceHead", num_classes: int = 40, **kwargs: Any) -> tuple[nn.Linear, AngularHead]:
    torch.manual_seed(0)
    head = HEADS[name](16, num_classes, **kwargs)
    assert isinstance(head, AngularHead)
    return nn.Linear(16, 16), head


def batch(step: int, num_classes: int, size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = 8 * torch.randn(size, 16, generator=generator)
    # A class or two comes up several times: its center must still move once
    return images, torch.randint(max(2, num_classes // 4), (size,), generator=generator)


def train(
    layer: nn.Linear, head: AngularHead, in_backward: bool, steps: int = 5, made: Any = torch.optim.SGD, **settings: Any
) -> list[Tensor]:
    optimizer = made([{"params": layer.parameters()}, {"params": head.parameters(), "lr": 0.5}], **settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    if in_backward:
        assert isinstance(head, ShardedHead)
        head.update_in_backward(optimizer)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        images, labels = batch(step, head.num_classes)
        head.set_progress(epoch=step / 2, step=step, seed=3)
        loss = head.loss(layer(images.to(layer.weight.dtype)), labels)
        loss.backward()
        assert (head.weight.grad is None) == in_backward
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    kept = optimizer.state[head.weight]
    return [torch.stack(losses), head.weight.detach(), layer.weight.detach(), *(kept[name] for name in sorted(kept))]


SETTINGS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "weight_decay": 0.01},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("num_classes", "kwargs"), [(40, {}), (13000, {"sub_centers": 2}), (13000, {"scale": 80.0})])
def test_it_ends_where_the_two_step_version_does(settings: dict, num_classes: int, kwargs: dict) -> None:
    layer, head = start(num_classes=num_classes, **kwargs)
    expected = train(copy.deepcopy(layer), copy.deepcopy(head), in_backward=False, **settings)
    got = train(layer, shard_head(head), in_backward=True, **settings)
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("made", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize(("num_classes", "decay"), [(40, 0.0), (40, 0.1), (13000, 0.1)])
def test_adam_ends_where_the_two_step_version_does(made: Any, num_classes: int, decay: float) -> None:
    layer, head = (each.double() for each in start(num_classes=num_classes))
    settings = {"made": made, "lr": 0.01, "weight_decay": decay, "betas": (0.8, 0.99), "eps": 1e-6}
    expected = train(copy.deepcopy(layer), copy.deepcopy(head), in_backward=False, **settings)
    got = train(layer, shard_head(head), in_backward=True, **settings)
    assert len(got) == len(expected) == 6  # with both moments, and the number of steps
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-12)


def test_a_sampled_row_moves_as_by_adamw_over_the_steps_that_drew_it() -> None:
    """torch's AdamW skips parameters without a gradient, so here each row is a parameter of its own."""
    layer, head = (each.double() for each in start(sub_centers=2))
    lazy, two_step = (shard_head(copy.deepcopy(head), sample_rate=0.4) for _ in range(2))
    settings: Any = {"lr": 0.1, "weight_decay": 0.1, "betas": (0.8, 0.99)}
    optimizer = torch.optim.AdamW(lazy.parameters(), **settings)
    lazy.update_in_backward(optimizer)
    rows = [nn.Parameter(row.clone()) for row in two_step.weight.detach()]
    separate = torch.optim.AdamW(rows, **settings)
    for step in range(6):
        images, labels = batch(step, 40)
        for each in (lazy, two_step):
            each.set_progress(epoch=0.0, step=step, seed=3)
            each.loss(layer(images.double()), labels).backward()
        gradient = two_step.weight.grad.coalesce()
        separate.zero_grad()
        for row, value in zip(gradient.indices()[0].tolist(), gradient.values(), strict=True):
            rows[row].grad = value
        separate.step()
        two_step.weight.grad = None
        two_step.weight.data = torch.stack([row.detach() for row in rows])
        torch.testing.assert_close(lazy.weight, two_step.weight, rtol=1e-8, atol=1e-12)
    steps = torch.stack([separate.state[row]["step"] if row in separate.state else torch.tensor(0.0) for row in rows])
    assert torch.equal(optimizer.state[lazy.weight]["step"], steps)
    assert 0 < steps.unique().numel() > 2


def test_a_run_may_begin_to_sample_and_its_state_loads(tmp_path: Path) -> None:
    layer, head = start()
    whole = shard_head(head)
    optimizer = torch.optim.AdamW(whole.parameters(), lr=0.1)
    whole.update_in_backward(optimizer)
    images, labels = batch(0, 40)
    for rate in (1.0, 1.0, 0.5, 1.0):
        whole.sample_rate = rate
        whole.loss(layer(images), labels).backward()
    steps = optimizer.state[whole.weight]["step"]
    assert sorted(steps.unique().tolist()) == [3.0, 4.0]
    assert (steps == 4).sum() == 20
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    again = torch.optim.AdamW(whole.parameters(), lr=0.1)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(again.state[whole.weight]["step"], steps)


@angular_heads
def test_every_head_can(name: str) -> None:
    layer, head = start(name, label_smoothing=0.1)
    expected = train(copy.deepcopy(layer), copy.deepcopy(head), in_backward=False, lr=0.1, momentum=0.9)
    got = train(layer, shard_head(head), in_backward=True, lr=0.1, momentum=0.9)
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_momentum_is_the_optimisers_own_state() -> None:
    """So a run may go on in two steps, or begin so, and its checkpoint is the same."""
    layer, head = start()
    whole = shard_head(copy.deepcopy(head))
    train(layer, whole, in_backward=True, lr=0.1, momentum=0.9)
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.1, momentum=0.9)
    whole.update_in_backward(optimizer)
    images, labels = batch(0, 40)
    whole.loss(layer(images), labels).backward()
    state = optimizer.state_dict()
    again = torch.optim.SGD(whole.parameters(), lr=0.1, momentum=0.9)
    again.load_state_dict(state)
    whole.update_in_backward(None)
    before = whole.weight.detach().clone()
    whole.loss(layer(images), labels).backward()
    gradient, velocity = whole.weight.grad.clone(), optimizer.state[whole.weight]["momentum_buffer"].clone()
    again.step()
    torch.testing.assert_close(whole.weight, before - 0.1 * (0.9 * velocity + gradient))


def test_the_rate_is_that_of_the_group_at_the_moment() -> None:
    layer, head = start()
    whole = shard_head(head)
    optimizer = torch.optim.Adam(whole.parameters(), lr=0.1)
    for rule in ("optimizer", "sgd"):
        whole.update_in_backward(optimizer, rule)
        optimizer.param_groups[0]["lr"] = 0.0
        before = whole.weight.detach().clone()
        images, labels = batch(0, 40)
        whole.loss(layer(images), labels).backward()
        assert torch.equal(whole.weight, before)
        optimizer.param_groups[0]["lr"] = 0.1
        whole.loss(layer(images), labels).backward()
        assert not torch.equal(whole.weight, before)
    # Two steps by Adam; SGD without momentum keeps nothing
    assert optimizer.state[whole.weight]["step"] == 2


def test_evaluation_moves_nothing() -> None:
    layer, head = start()
    whole = shard_head(head).eval()
    whole.update_in_backward(torch.optim.SGD(whole.parameters(), lr=0.1))
    before = whole.weight.detach().clone()
    images, labels = batch(0, 40)
    whole.loss(layer(images), labels).backward()
    assert torch.equal(whole.weight, before)
    assert whole.weight.grad is not None


def test_a_second_backward_of_one_step_is_refused() -> None:
    layer, head = start()
    whole = shard_head(head)
    whole.update_in_backward(torch.optim.SGD(whole.parameters(), lr=0.1))
    images, labels = batch(0, 40)
    first, second = (whole.loss(layer(images), labels) for _ in range(2))
    first.backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        second.backward()


def test_an_optimizer_that_cannot_is_refused() -> None:
    layer, head = start()
    whole = shard_head(head)
    with pytest.raises(ValueError, match="^optimizer: got 'SGD'; expected one that holds the class centers"):
        whole.update_in_backward(torch.optim.SGD(layer.parameters(), lr=0.1))
    for wrong in ({"dampening": 0.5, "momentum": 0.9}, {"maximize": True}):
        with pytest.raises(ValueError, match=f"^optimizer.{next(iter(wrong))}: got .*; expected off"):
            whole.update_in_backward(torch.optim.SGD(whole.parameters(), lr=0.1, **wrong))
    for option in ("maximize", "amsgrad", "differentiable"):
        with pytest.raises(ValueError, match=f"^optimizer.{option}: got True; expected off"):
            whole.update_in_backward(torch.optim.AdamW(whole.parameters(), lr=0.1, **{option: True}))
    with pytest.raises(ValueError, match="^optimizer: got 'RMSprop'; expected SGD, Adam or AdamW"):
        whole.update_in_backward(torch.optim.RMSprop(whole.parameters(), lr=0.1))
