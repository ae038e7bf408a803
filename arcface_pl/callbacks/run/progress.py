"""Progress bar: training loss and validation accuracy."""

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

__all__ = ["RunProgressBar"]


class RunProgressBar(TQDMProgressBar):
    """Lightning's bar without the version number, updated rarely enough to cost nothing.

    Args:
        refresh_rate: Steps between two updates, about a millisecond each; 0 disables the bar.
    """

    def __init__(self, refresh_rate: int = 50) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, int | str | float | dict]:
        """Return the metrics shown next to the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
