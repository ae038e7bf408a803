import math

import pytest
import torch

from arcface_pl.training.schedules import Constant, Cosine, OneCycle, Schedule


def rates(schedule: type[Schedule], total: int, **arguments: float) -> list[float]:
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))]}], lr=2.0)
    scheduler = schedule(optimizer, total, **arguments)
    seen = []
    for _ in range(total):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


def test_constant() -> None:
    assert rates(Constant, 5) == [2.0] * 6


def test_one_cycle_is_two_straight_lines() -> None:
    assert rates(OneCycle, 8, warmup_fraction=0.25) == pytest.approx([0, 1, 2, 5 / 3, 4 / 3, 1, 2 / 3, 1 / 3, 0])


def test_cosine_is_half_a_cosine_after_its_warm_up() -> None:
    seen = rates(Cosine, 10, warmup_fraction=0.2)
    assert seen[:3] == pytest.approx([0, 1, 2])
    assert seen[2:] == pytest.approx([1 + math.cos(math.pi * step / 8) for step in range(9)])


@pytest.mark.parametrize("schedule", [OneCycle, Cosine])
@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_wrong_warm_up_is_named(schedule: type[Schedule], fraction: float) -> None:
    with pytest.raises(ValueError, match="warmup_fraction"):
        rates(schedule, 3, warmup_fraction=fraction)


def test_state_goes_on_where_it_was_but_not_with_the_old_length() -> None:
    def at(total: int) -> tuple[torch.optim.Optimizer, Schedule]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, OneCycle(optimizer, total, warmup_fraction=0.0)

    optimizer, schedule = at(10)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    longer_optimizer, longer = at(20)
    longer.load_state_dict(schedule.state_dict())
    longer_optimizer.step()
    longer.step()
    assert longer.last_epoch == 5
    assert longer.get_last_lr() == pytest.approx([1 - 5 / 20])
