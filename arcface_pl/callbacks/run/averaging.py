"""Averaging the weights over the steps: validation, checkpoints and the trained model have the average."""

from itertools import chain
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from arcface_pl.callbacks.run.private_apis import count_averages_on_host
from arcface_pl.functional.checks import check_number


class ExponentialMovingAverage(WeightAveraging):
    r"""Keeps a moving average of weights and batch statistics, which is what validation and checkpoints see.

    .. math:: \bar w_t = d_t \bar w_{t-1} + (1 - d_t) w_t, \qquad d_t = \min(d, (1 + t) / (10 + t))

    The growing :math:`d_t` forgets the random weights that training began with. A checkpoint's ``state_dict`` is the
    average; the weights that training goes on from lie beside it, so that a resumed run is the uninterrupted one. Under
    ``bf16-true`` the average stays in float32, and validation sees it rounded.

    Args:
        decay: d, in [0, 1): the average reaches over about 1 / (1 - d) steps.

    Raises:
        ValueError: If ``decay`` is out of range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        check_number("decay", decay, low=0, high=1)
        super().__init__(multi_avg_fn=self._move)
        self.decay = decay
        self.step = 0
        self._training: list[Tensor] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin the average on the training device."""
        if stage == "fit":
            # Only now is the device known: the module is still on the CPU
            narrow = trainer.precision in ("bf16-true", "16-true")
            # torch 2.11 moves several tensors at once only where averages and weights have the same dtype
            way: Any = {"avg_fn": self._move_one} if narrow else {"multi_avg_fn": self._move}
            super().__init__(trainer.strategy.root_device, **way)
            super().setup(trainer, pl_module, stage)
            count_averages_on_host(self)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Update after every optimizer step, whose number the decay depends on."""
        self.step = step_idx or 0
        return step_idx is not None

    def _move(self, averages: Any, current: Any, num_averaged: Tensor) -> None:
        if averages[0].is_floating_point():
            decay = min(self.decay, (1 + self.step) / (10 + self.step))
            wide = [now.to(average.dtype) for average, now in zip(averages, current, strict=True)]
            get_ema_multi_avg_fn(decay)(averages, wide, num_averaged)
        else:
            for average, now in zip(averages, current, strict=True):
                average.copy_(now)  # a count of batches

    def _move_one(self, average: Tensor, current: Tensor, num_averaged: Tensor) -> Tensor:
        self._move([average], [current], num_averaged)
        return average

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average into the module. Lightning swaps both, which would round the average."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._training = [each.detach().clone() for each in chain(pl_module.parameters(), pl_module.buffers())]
            super().on_train_end(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take back the weights that training goes on from."""
        for each, kept in zip(chain(pl_module.parameters(), pl_module.buffers()), self._training, strict=False):
            each.data.copy_(kept)
        self._training = []

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take both sets of weights back where training goes on; evaluation keeps the average."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let go of the average, which the module itself has by now."""
        if stage == "fit":
            super().__init__(multi_avg_fn=self._move)
