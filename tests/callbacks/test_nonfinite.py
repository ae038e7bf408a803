from types import SimpleNamespace
from typing import Any

import pytest
import torch

from arcface_pl.callbacks.run.nonfinite import NonFiniteGuard
from arcface_pl.errors import NonFiniteError


def guard_of(deferred: bool) -> NonFiniteGuard:
    guard = NonFiniteGuard()
    guard.deferred = deferred
    return guard


def trained(optimizer_class: type, deferred: bool, poison: float | None, **options: object) -> torch.nn.Linear:
    """Take three steps; in the second, one gradient may be poisoned."""
    torch.manual_seed(0)
    layer, guard = torch.nn.Linear(4, 3), guard_of(deferred)
    optimizer = optimizer_class(layer.parameters(), lr=0.1, **options)
    for step in range(3):
        optimizer.zero_grad()
        loss = layer(torch.randn(5, 4)).square().sum()
        guard.check_loss(loss, step)
        loss.backward()
        if step == 1 and poison is not None:
            assert layer.weight.grad is not None
            layer.weight.grad[1, 2] = poison
        guard.check_gradients(optimizer, step)
        optimizer.step()
    guard.report()
    return layer


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_is_named_before_the_step(poison: float) -> None:
    with pytest.raises(NonFiniteError, match="the gradients are not finite at step 1"):
        trained(torch.optim.SGD, False, poison)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_before_its_backward_pass(value: float) -> None:
    with pytest.raises(NonFiniteError, match=f"the loss is {value} at step 7"):
        NonFiniteGuard().check_loss(torch.tensor(value), 7)


@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [
        (torch.optim.Adam, {"fused": True}),
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.SGD, {"fused": True, "momentum": 0.9}),
        (torch.optim.SGD, {}),
        (torch.optim.Adam, {}),
    ],
)
@pytest.mark.parametrize("cause", ["loss", "gradient"])
def test_a_deferred_step_is_masked_and_reported_later(optimizer_class: type, options: dict, cause: str) -> None:
    layer, guard = torch.nn.Linear(4, 3), guard_of(True)
    optimizer = optimizer_class(layer.parameters(), lr=0.1, **options)
    layer(torch.ones(1, 4)).sum().backward()
    guard.check_gradients(optimizer, 0)
    optimizer.step()
    guard.report()
    before = [weight.detach().clone() for weight in layer.parameters()]
    if cause == "loss":
        guard.check_loss(torch.tensor(float("nan")), 1)
    assert layer.bias.grad is not None
    layer.bias.grad[0] = float("nan") if cause == "gradient" else 1.0
    guard.check_gradients(optimizer, 1)
    optimizer.step()
    assert all(weight.isfinite().all() for weight in layer.parameters())
    if options.get("fused") or (not options and optimizer_class is torch.optim.SGD):
        assert all(torch.equal(weight, old) for weight, old in zip(layer.parameters(), before, strict=True))
    layer.bias.grad[0] = 1.0
    guard.check_gradients(optimizer, 2)
    optimizer.step()
    with pytest.raises(NonFiniteError, match="the loss or a gradient is not finite at step 1"):
        guard.report()


@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.SGD])
def test_what_is_finite_passes_untouched(optimizer_class: type) -> None:
    one, other = (trained(optimizer_class, deferred, None, fused=True) for deferred in (False, True))
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)


def test_a_masked_step_is_reported_at_the_next_logged_step() -> None:
    guard = guard_of(True)
    layer = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for step in range(3):
        guard.check_loss(layer(torch.ones(1, 4)).sum() * (float("nan") if step == 1 else 1.0), step)
        layer(torch.ones(1, 4)).sum().backward()
        guard.check_gradients(optimizer, step)
        trainer: Any = SimpleNamespace(global_step=step + 1, log_every_n_steps=3)
        if step < 2:
            guard.on_train_batch_end(trainer, layer)  # type: ignore[arg-type]
    with pytest.raises(NonFiniteError, match="at step 1"):
        guard.on_train_batch_end(trainer, layer)  # type: ignore[arg-type]
