"""CPU threads and precision of matrix products while training."""

from typing import Any

import lightning as L
import torch


class Arithmetic(L.Callback):
    """Sets torch's number of threads and precision of float32 matrix products for training.

    The precision is restored afterwards; the number of threads stays.

    Args:
        num_threads: CPU threads per process, at least 1. Unset: torch's.
        matmul_precision: "highest", "high" or "medium", for `torch.set_float32_matmul_precision`. Unset: torch's.
    """

    def __init__(self, num_threads: int | None = None, matmul_precision: str | None = None) -> None:
        self.num_threads = num_threads
        self.matmul_precision = matmul_precision
        self._before: str | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Apply the settings; with precision 64-true, convert the module before a checkpoint is read into it."""
        if trainer.precision == "64-true":
            pl_module.double()  # Lightning converts after the weights were read, and rounded
        if stage != "fit":
            return
        if self.num_threads is not None:  # in setup: after the launcher of processes, which sets its own number
            torch.set_num_threads(self.num_threads)
        if self.matmul_precision is not None:
            self._before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(self.matmul_precision)

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Restore the precision."""
        if self._before is not None:
            torch.set_float32_matmul_precision(self._before)
            self._before = None

    on_exception = teardown
