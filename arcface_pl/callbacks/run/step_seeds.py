"""Seeds per training step, so that a resumed run draws what the uninterrupted one would have drawn."""

from typing import Any

import lightning as L

from arcface_pl.seeding import derive_seed, run_seed, seed_draws


class StepSeeds(L.Callback):
    """Seeds torch before each training step (dropout, drawn margins) with a function of the run's seed and position.

    Override `seed` to derive it otherwise.
    """

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the CPU's generator and the device's."""
        seed_draws(pl_module.device, self.seed(trainer, batch_idx))

    def seed(self, trainer: L.Trainer, batch_idx: int) -> int:
        """Return the seed of a step: a function of run, epoch, batch and process."""
        return derive_seed(run_seed(), "step", trainer.current_epoch, batch_idx, trainer.global_rank)
