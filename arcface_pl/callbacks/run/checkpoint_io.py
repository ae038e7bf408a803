"""How the Trainer writes and reads checkpoints."""

import lightning as L

from arcface_pl.checkpoints.plugin import DurableCheckpointIO


class DurableCheckpoints(L.Callback):
    """Has the Trainer write checkpoints atomically and read them safely, unless it was given a checkpoint plugin."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Replace Lightning's default plugin, before a checkpoint is read."""
        DurableCheckpointIO.install(trainer.strategy)
