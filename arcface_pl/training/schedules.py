"""Learning rate as a function of the share of the run that is done.

A schedule is built as ``schedule(optimizer, total_steps)`` once the Trainer knows how many steps there will be, so that
no config has to repeat that number. The optimizer's own ``lr`` is the peak.
"""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["Constant", "Cosine", "OneCycle", "Schedule"]


class Schedule(LambdaLR):
    """Base of the schedules: multiplies each parameter group's learning rate by ``factor(progress)`` every step.

    Args:
        optimizer: Holds the peak learning rates.
        total_steps: Optimizer steps in the whole run, at least 1.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int) -> None:
        self.total_steps = max(1, int(total_steps))
        super().__init__(optimizer, self._factor_at)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from step to step; the length of the run is the present Trainer's to say."""
        state = super().state_dict()
        return {key: state[key] for key in ("base_lrs", "last_epoch", "_step_count", "_last_lr", "lr_lambdas")}

    def _factor_at(self, step: int) -> float:
        return self.factor(min(1.0, step / self.total_steps))

    def factor(self, progress: float) -> float:
        """Return the multiple of the peak rate, in [0, 1], at ``progress`` in [0, 1]."""
        raise AssertionError(f"{type(self).__name__} must define factor")


class Constant(Schedule):
    """The peak rate all the way, as in the source document."""

    def factor(self, progress: float) -> float:
        """Return 1."""
        return 1.0


def _check_fraction(name: str, value: float) -> float:
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name}: got {value!r}, but it takes a share of the run in [0, 1)")
    return value


class Cosine(Schedule):
    """Linear warm-up from 0, then half a cosine down to 0 (Loshchilov and Hutter 2017, SGDR, equation 5, one cycle).

    Args:
        optimizer: Holds the peak learning rates.
        total_steps: Optimizer steps in the whole run, at least 1.
        warmup_fraction: Share of the run spent warming up, in [0, 1).
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_fraction: float = 0.05) -> None:
        self.warmup_fraction = _check_fraction("warmup_fraction", warmup_fraction)
        super().__init__(optimizer, total_steps)

    def factor(self, progress: float) -> float:
        """Return progress / warmup_fraction, then (1 + cos(pi u)) / 2 over what is left of the run."""
        if progress < self.warmup_fraction:
            return progress / self.warmup_fraction
        done = (progress - self.warmup_fraction) / (1.0 - self.warmup_fraction)
        return 0.5 * (1.0 + math.cos(math.pi * done))


class OneCycle(Schedule):
    """A straight line up to the peak and a straight line down to 0 (Smith and Topin 2019, super-convergence).

    Args:
        optimizer: Holds the peak learning rates.
        total_steps: Optimizer steps in the whole run, at least 1.
        warmup_fraction: Share of the run spent going up, in [0, 1).
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_fraction: float = 0.25) -> None:
        self.warmup_fraction = _check_fraction("warmup_fraction", warmup_fraction)
        super().__init__(optimizer, total_steps)

    def factor(self, progress: float) -> float:
        """Return progress / warmup_fraction up to the peak, then (1 - progress) / (1 - warmup_fraction)."""
        if progress < self.warmup_fraction:
            return progress / self.warmup_fraction
        return (1.0 - progress) / (1.0 - self.warmup_fraction)
