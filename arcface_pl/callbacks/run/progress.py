"""The progress bar: training loss and honest validation accuracy, and nothing that a person cannot use."""

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

__all__ = ["RunProgressBar"]


class RunProgressBar(TQDMProgressBar):
    """Lightning's bar without the tail of the run's folder name, updated rarely enough to cost nothing.

    Args:
        refresh_rate: Steps between two updates; each costs about a millisecond. 0 for no bar.
    """

    def __init__(self, refresh_rate: int = 50) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, int | str | float | dict]:
        """Return what stands behind the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
