"""What callbacks change in the Trainer while it trains, as far as steps depend on it."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging

_TAKEN: dict[str, Any] = {
    "accumulate_grad_batches": lambda value: type(value) is int and value >= 1,
    "gradient_clip_val": lambda value: value is None or (type(value) in (int, float) and value >= 0),
    "gradient_clip_algorithm": lambda value: value in (None, "norm", "value"),
}


class TrainerChanges:
    """Keeps accumulation and clipping that callbacks set while training, which a resumed run would not come by again.

    Args:
        trainer: The Trainer, as the settings left it.
    """

    def __init__(self, trainer: Any) -> None:
        self._asked = {name: getattr(trainer, name) for name in _TAKEN}

    def state_of(self, trainer: Any) -> dict[str, list[Any]]:
        """Return what was asked for and what is there now, by name, where they differ."""
        present = {name: getattr(trainer, name) for name in self._asked}
        return {name: [asked, present[name]] for name, asked in self._asked.items() if present[name] != asked}

    def restore(self, trainer: Any, saved: Mapping[str, Any]) -> None:
        """Set what the state holds, except where this run asks for another value than that run did."""
        # They set the accumulation by the epoch
        scheduled = any(
            isinstance(each, GradientAccumulationScheduler | StochasticWeightAveraging) for each in trainer.callbacks
        )
        for name, values in saved.items() if isinstance(saved, Mapping) else ():
            is_pair = name in _TAKEN and isinstance(values, list) and len(values) == 2
            if not is_pair or (scheduled and name == "accumulate_grad_batches"):
                continue
            asked, value = values
            if self._asked[name] == asked and _TAKEN[name](value):
                setattr(trainer, name, value)
