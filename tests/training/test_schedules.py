import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim import lr_scheduler

from arcface_pl import ArcFaceModule
from arcface_pl.callbacks.run.resumed_settings import training_settings
from arcface_pl.errors import SettingsError
from arcface_pl.training.schedules import Constant, Cosine, OneCycle, Schedule, configure_schedule

Make = Callable[..., Any]


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
    longer_optimizer.load_state_dict(optimizer.state_dict())
    longer.load_state_dict(schedule.state_dict())
    assert longer_optimizer.param_groups[0]["lr"] == longer.get_last_lr()[0] == 1 - 4 / 20  # its first step, too
    longer_optimizer.step()
    longer.step()
    assert longer.last_epoch == 5
    assert longer.get_last_lr() == pytest.approx([1 - 5 / 20])


def test_rates_that_something_else_has_set_are_left_alone() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = Cosine(optimizer, 10)
    optimizer.param_groups[0]["lr"] = 0.125
    schedule.load_state_dict(schedule.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.125


class Rates(L.Callback):
    def __init__(self) -> None:
        self.used: list[float] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.used.append(optimizer.param_groups[0]["lr"])


def rates_of_run(make_trainer: Make, module: ArcFaceModule, loader: Any, epochs: int, **arguments: Any) -> list[float]:
    rates = Rates()
    make_trainer(max_epochs=epochs, callbacks=[rates], **arguments).fit(module, loader, loader)
    return rates.used


sgd = partial(torch.optim.SGD, lr=1.0)


def test_own_schedules_learn_the_length_of_the_run(make_trainer: Make, tiny_module: Make, tiny_loader: Make) -> None:
    module = tiny_module(optimizer=sgd, lr_schedule=partial(OneCycle, warmup_fraction=0.25), head_lr=2.0)
    assert rates_of_run(make_trainer, module, tiny_loader(), 2) == pytest.approx(
        [0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    )


@pytest.mark.parametrize("schedule", [OneCycle, Cosine, Constant])
def test_a_run_of_one_step_trains_at_the_peak(
    make_trainer: Make, tiny_module: Make, tiny_loader: Make, schedule: Any
) -> None:
    module = tiny_module(optimizer=sgd, lr_schedule=schedule)
    before = module.head.weight.detach().clone()
    assert rates_of_run(make_trainer, module, tiny_loader(8, 8), 1) == [1.0]
    assert not torch.equal(module.head.weight, before)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (partial(lr_scheduler.StepLR, step_size=1, gamma=0.1), [1, 0.1, 0.01]),
        (partial(lr_scheduler.MultiStepLR, milestones=[2], gamma=0.5), [1, 1, 0.5]),
        (partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=2), [1, 0.5, 1]),
        (partial(lr_scheduler.ExponentialLR, gamma=0.5), [1, 0.5, 0.25]),
    ],
)
def test_torchs_schedules_step_every_epoch(
    make_trainer: Make, tiny_module: Make, tiny_loader: Make, schedule: Any, expected: list[float]
) -> None:
    module = tiny_module(optimizer=sgd, lr_schedule=schedule)
    used = rates_of_run(make_trainer, module, tiny_loader(), 3)
    assert used == pytest.approx([rate for rate in expected for _ in range(4)])


@pytest.mark.parametrize(
    "kind", [lr_scheduler.ReduceLROnPlateau, partial(ReduceLROnPlateau, monitor="val/num_correct")]
)
def test_a_plateau_lowers_the_rate(make_trainer: Make, tiny_module: Make, tiny_loader: Make, kind: Any) -> None:
    schedule = partial(kind, mode="min", patience=0, threshold=1e9, threshold_mode="abs", factor=0.5)
    module = tiny_module(optimizer=sgd, lr_schedule=schedule)
    used = rates_of_run(make_trainer, module, tiny_loader(), 3)
    assert used == [1.0] * 8 + [0.5] * 4
    config = module.trainer.lr_scheduler_configs[0]
    assert config.monitor == ("val/num_correct" if isinstance(kind, partial) else "val/loss")


def test_a_plateau_waits_for_the_next_validation(make_trainer: Make, tiny_module: Make, tiny_loader: Make) -> None:
    schedule = partial(lr_scheduler.ReduceLROnPlateau, patience=0, threshold=1e9, threshold_mode="abs", factor=0.5)
    module = tiny_module(optimizer=sgd, lr_schedule=schedule)
    used = rates_of_run(make_trainer, module, tiny_loader(), 5, check_val_every_n_epoch=2)
    assert used == [1.0] * 16 + [0.5] * 4  # validated after the second epoch and the fourth
    assert training_settings(module.trainer, module)["model.lr_schedule.frequency"] == 1  # may change on resume


def test_a_plateau_without_a_validation_or_against_its_score(
    make_trainer: Make, tiny_module: Make, tiny_loader: Make
) -> None:
    module = tiny_module(optimizer=sgd, lr_schedule=lr_scheduler.ReduceLROnPlateau)
    with pytest.raises(SettingsError, match="model.lr_schedule: got 'ReduceLROnPlateau'; expected another"):
        rates_of_run(make_trainer, module, tiny_loader(), 1, limit_val_batches=0)
    module = tiny_module(optimizer=sgd, lr_schedule=partial(ReduceLROnPlateau, monitor="val/accuracy"))
    with pytest.raises(SettingsError, match="model.lr_schedule.mode: got 'min'; expected max: higher val/accuracy"):
        rates_of_run(make_trainer, module, tiny_loader(), 1)


def test_every_optimizer_of_torch_takes_both_groups(tiny_module: Make) -> None:
    kinds = [
        each
        for each in vars(torch.optim).values()
        if isinstance(each, type) and issubclass(each, torch.optim.Optimizer)
    ]
    made = []
    for kind in kinds:
        if kind in (torch.optim.Optimizer, torch.optim.LBFGS) or kind.__name__ == "Muon":
            continue  # a base class; one group only; matrices only
        module = tiny_module(optimizer=partial(kind, lr=0.5))
        module.trainer = L.Trainer(accelerator="cpu", logger=False, barebones=True)
        optimizer = module.configure_optimizers()
        made.append(type(optimizer))
        assert [group["name"] for group in optimizer.param_groups] == ["backbone", "head"]
    assert torch.optim.AdamW in made
    assert len(made) > 8


@pytest.mark.parametrize("schedule", [OneCycle, Cosine])
def test_a_run_without_end_is_refused_and_one_that_time_ends_is_not(
    make_trainer: Make, tiny_module: Make, tiny_loader: Make, schedule: Any
) -> None:
    with pytest.raises(SettingsError, match=f"lr_schedule: got '{schedule.__name__}'; expected Constant or null"):
        make_trainer(max_epochs=-1).fit(tiny_module(lr_schedule=schedule), tiny_loader())
    for each in (schedule, Constant):
        make_trainer(max_epochs=-1, max_time="00:00:00:01").fit(tiny_module(lr_schedule=each), tiny_loader())


@pytest.mark.parametrize("schedule", [OneCycle, Cosine])
def test_a_schedule_by_time_has_the_rates_of_one_by_steps(tiny_module: Make, schedule: Any) -> None:
    timer = Timer({"seconds": 100})
    trainer = SimpleNamespace(
        estimated_stepping_batches=math.inf, callbacks=[timer], strategy=SimpleNamespace(broadcast=lambda share: share)
    )
    by_time, by_steps = (schedule(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)) for _ in range(2))
    by_steps.run_for(100)
    configure_schedule(by_time, trainer)
    for second in range(1, 110):
        timer.load_state_dict({"time_elapsed": {"train": second}})
        for each in (by_time, by_steps):
            each.optimizer.step()
            each.step()
        assert by_time.get_last_lr() == pytest.approx(by_steps.get_last_lr(), abs=1e-12)


def test_the_state_is_that_of_a_lambda_schedule_and_goes_on_at_the_same_rate() -> None:
    def made(steps: int) -> tuple[torch.optim.Optimizer, Cosine]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, Cosine(optimizer, total_steps=steps)

    optimizer, schedule = made(10)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    state = schedule.state_dict()
    assert not {"total_steps", "given_steps", "warmup_fraction", "optimizer"} & state.keys()
    _, same = made(10)
    same.load_state_dict(state)
    assert (same.last_epoch, same.get_last_lr()) == (3, schedule.get_last_lr())
