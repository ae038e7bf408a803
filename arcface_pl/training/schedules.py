"""Learning rate as a function of the share of the run that is done.

A config need not repeat the number of steps: the Trainer knows it, and `ArcFaceModule` passes it on. The optimizer's
``lr`` is the peak.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, Timer
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from arcface_pl.callbacks.run.private_apis import set_rates
from arcface_pl.callbacks.run.refused import check_mode
from arcface_pl.errors import SettingsError, expected
from arcface_pl.functional.checks import check_number


class Schedule(LambdaLR):
    """Base class: multiplies each parameter group's learning rate by ``factor(progress)`` every step.

    A run of a single step takes it at the peak rate.

    Args:
        optimizer: Its groups have the peak learning rates.
        total_steps: Optimizer steps in the whole run, at least 1; a Trainer's take its place. Unset: `run_for` is
            called before the first step.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int | None = None) -> None:
        self.given_steps = total_steps
        self.total_steps = max(1, int(total_steps or 1))
        self._share_done: Callable[[], float] | None = None
        super().__init__(optimizer, self._factor_at)

    def run_for(self, total_steps: int, share_done: Callable[[], float] | None = None) -> None:
        """Set the length of the run, and the rates of its first step.

        Args:
            total_steps: Optimizer steps in the whole run.
            share_done: Share of the run that is done, where that does not follow from the number of steps.
        """
        self.total_steps, self._share_done = max(1, int(total_steps)), share_done
        set_rates(self, [float(base) * self._factor_at(self.last_epoch) for base in self.base_lrs])

    def state_dict(self) -> dict[str, Any]:
        """Return what a LambdaLR's state has, none of our settings: the run's length comes from the present Trainer."""
        state, bare = super().state_dict(), LambdaLR(SGD([torch.zeros(1)]), float).state_dict()
        return {key: state[key] for key in bare}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the same step, at the rate that the present length of the run gives it."""
        super().load_state_dict(state_dict)
        present = [group["lr"] for group in self.optimizer.param_groups]
        if self._share_done is None and present == self.get_last_lr():  # else a callback has set other rates
            self.run_for(self.total_steps)

    def _factor_at(self, step: int) -> float:
        if self._share_done is not None:
            return self.factor(min(1.0, self._share_done()))
        if self.total_steps == 1 and step == 0:
            return 1.0
        return self.factor(min(1.0, step / self.total_steps))

    def factor(self, progress: float) -> float:
        """Return the multiple of the peak rate, in [0, 1], at ``progress`` in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must define factor")


class Constant(Schedule):
    """The peak rate throughout."""

    def factor(self, progress: float) -> float:
        """Return 1."""
        return 1.0


class WarmUp(Schedule):
    """Base class: linear from 0 to the peak over the first part of the run, then ``fall(progress)``.

    Args:
        optimizer: Its groups have the peak learning rates.
        total_steps: Optimizer steps in the whole run, at least 1. Unset: taken from the Trainer.
        warmup_fraction: Share of the run spent on the way up, in [0, 1).
    """

    def __init__(self, optimizer: Optimizer, total_steps: int | None = None, warmup_fraction: float = 0.05) -> None:
        check_number("warmup_fraction", warmup_fraction, low=0, high=1)
        self.warmup_fraction = warmup_fraction
        super().__init__(optimizer, total_steps)

    def factor(self, progress: float) -> float:
        """Return progress / warmup_fraction up to the peak, then ``fall(progress)``."""
        return progress / self.warmup_fraction if progress < self.warmup_fraction else self.fall(progress)

    def fall(self, progress: float) -> float:
        """Return the multiple of the peak rate, in [0, 1], at ``progress`` in [warmup_fraction, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must define fall")


class Cosine(WarmUp):
    """Linear warm-up from 0, then half a cosine down to 0 (Loshchilov and Hutter 2017, SGDR, equation 5, one cycle)."""

    def fall(self, progress: float) -> float:
        """Return (1 + cos(pi u)) / 2, u the share of what is left after the warm-up."""
        done = (progress - self.warmup_fraction) / (1.0 - self.warmup_fraction)
        return 0.5 * (1.0 + math.cos(math.pi * done))


class OneCycle(WarmUp):
    """Linear up to the peak and linear down to 0 (Smith and Topin 2019, super-convergence).

    Args:
        optimizer: Its groups have the peak learning rates.
        total_steps: Optimizer steps in the whole run, at least 1. Unset: taken from the Trainer.
        warmup_fraction: Share of the run spent on the way up, in [0, 1).
    """

    def __init__(self, optimizer: Optimizer, total_steps: int | None = None, warmup_fraction: float = 0.25) -> None:
        super().__init__(optimizer, total_steps, warmup_fraction)

    def fall(self, progress: float) -> float:
        """Return (1 - progress) / (1 - warmup_fraction)."""
        return (1.0 - progress) / (1.0 - self.warmup_fraction)


def configure_schedule(schedule: Any, trainer: Any) -> LRSchedulerConfigType:
    """Return Lightning's configuration of a schedule: `Schedule` steps every batch, torch's every epoch.

    Args:
        schedule: A `Schedule`, whose length is set here, or a scheduler of torch.optim.lr_scheduler.
        trainer: Knows the number of steps. In a run that only ``max_time`` ends, a `Schedule` follows the time. None in
            a loop of one's own, where the schedule is given its ``total_steps``.

    Raises:
        SettingsError: If a schedule over the whole run meets a run of unknown length, or a plateau cannot be found.
    """
    if isinstance(schedule, ReduceLROnPlateau):
        monitor = getattr(schedule, "monitor", "val/loss")  # an argument of lightning.pytorch.cli's
        check_mode("model.lr_schedule.mode", monitor, schedule.mode)
        if monitor.startswith("val/") and getattr(trainer, "limit_val_batches", 1) == 0:
            accepted = f"another schedule: it follows {monitor}, and no image is set aside for validation"
            raise SettingsError(expected("model.lr_schedule", type(schedule).__name__, accepted))
        return {
            "scheduler": schedule,
            "monitor": monitor,
            "interval": "epoch",
            "frequency": getattr(trainer, "check_val_every_n_epoch", None) or 1,
            "name": "train/learning_rate",
        }
    if not isinstance(schedule, Schedule):
        return {"scheduler": schedule, "interval": "epoch", "name": "train/learning_rate"}
    if trainer is None:
        total_steps, timer, remedy = schedule.given_steps or math.inf, None, "Pass it total_steps"
    else:
        total_steps, timer = _steps_of(trainer), _timer_of(trainer)
        remedy = "Or set max_steps or max_time, or max_epochs where the training data has a length"
    if not math.isinf(total_steps):
        schedule.run_for(int(total_steps))
    elif timer is not None:
        # Clocks differ, and processes must not train at different rates
        schedule.run_for(1, lambda: trainer.strategy.broadcast(_share_of_time(timer)))
    elif not isinstance(schedule, Constant):
        accepted = "Constant or null in a run of unknown length"
        raise SettingsError(expected("model.lr_schedule", type(schedule).__name__, accepted, remedy))
    return {"scheduler": schedule, "interval": "step", "name": "train/learning_rate"}


def _steps_of(trainer: Any) -> float:
    """Return the optimizer steps of the run; Lightning's number is the one without accumulation that changes."""
    total_steps: float = trainer.estimated_stepping_batches
    schedulers = [each for each in trainer.callbacks if isinstance(each, GradientAccumulationScheduler)]
    if total_steps < 0:  # neither the length of an epoch nor max_steps is known
        return math.inf
    if not schedulers or math.isinf(total_steps):
        return total_steps
    batches = [schedulers[0].get_accumulate_grad_batches(epoch) for epoch in range(trainer.max_epochs)]
    steps = sum(math.ceil(trainer.num_training_batches / each) for each in batches)
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)


def _timer_of(trainer: Any) -> Timer | None:
    timers = [each for each in trainer.callbacks if isinstance(each, Timer) and each.time_remaining() is not None]
    return timers[0] if timers else None


def _share_of_time(timer: Timer) -> float:
    elapsed, remaining = timer.time_elapsed(), timer.time_remaining() or 0.0
    return min(1.0, elapsed / max(elapsed + remaining, 1e-9))
