"""Averaging the weights over the steps: validation, checkpoints and the trained model have the average."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from arcface_pl.callbacks.run.private_apis import average_on, averaged_steps

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage(WeightAveraging):
    r"""Keeps a moving average of weights and batch statistics, which is what validation and checkpoints see.

    .. math:: \bar w_t = d_t \bar w_{t-1} + (1 - d_t) w_t, \qquad d_t = \min(d, (1 + t) / (10 + t))

    The growing :math:`d_t` forgets the random weights that training began with. A checkpoint's ``state_dict`` is the
    average; the weights that training goes on from lie beside it, so that a resumed run is the uninterrupted one.

    Args:
        decay: d, in [0, 1): the average reaches over about 1 / (1 - d) steps.

    Raises:
        ValueError: If ``decay`` is out of range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay: got {decay!r}, but it takes a number in [0, 1)")
        super().__init__(multi_avg_fn=self._move)
        self.decay = decay

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin the average on the training device."""
        # Lightning asks the module, which is still on the CPU at this point
        average_on(self, trainer.strategy.root_device)
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # torch asks in every step whether this count is 0: on a GPU the host would wait for the answer
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    @torch.no_grad()
    def _move(self, averages: Any, current: Any, num_averaged: Tensor) -> None:
        if not averages[0].is_floating_point():
            for average, now in zip(averages, current, strict=True):
                average.copy_(now)  # a count of batches
            return
        step = averaged_steps(self)
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(averages, current, 1.0 - decay)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take both sets of weights back where training goes on; evaluation keeps the average."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let go of the average, which the module itself has by now."""
        if stage == "fit":
            self._average_model = None
