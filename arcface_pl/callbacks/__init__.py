"""What happens around training: where a run writes, which checkpoints it keeps, what TensorBoard shows."""

from arcface_pl.callbacks.checkpoint import RunCheckpoint
from arcface_pl.callbacks.logger import RunLogger
from arcface_pl.callbacks.progress import RunProgressBar

__all__ = ["RunCheckpoint", "RunLogger", "RunProgressBar"]
