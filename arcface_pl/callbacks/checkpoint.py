"""Which checkpoints a run keeps: the best by validation, and the last."""

from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

__all__ = ["RunCheckpoint"]


class RunCheckpoint(Checkpoint):
    """Writes checkpoints/last.ckpt after every epoch, and checkpoints/best.ckpt when validation was never better.

    Without a validation split there is no best one: the test set chooses nothing, so the last one counts.

    Args:
        monitor: Logged score that chooses the best, measured on the validation split.
        mode: Whether a higher or a lower score is better. Of two equal ones the later is kept.

    Attributes:
        best_metrics: All metrics of the validation split at the best checkpoint.
    """

    def __init__(self, monitor: str = "val/accuracy", mode: Literal["min", "max"] = "max") -> None:
        super().__init__()
        if mode not in ("min", "max"):
            raise ValueError(f"mode: got {mode!r}, but it accepts min, max")
        self.monitor = monitor
        self.mode = mode
        self.best_score: float | None = None
        self.best_metrics: dict[str, float] = {}
        self._folder: Path | None = None

    @property
    def path(self) -> Path:
        """The checkpoint that counts: the best by validation, or the last where nothing was validated."""
        assert self._folder is not None, "a run has not begun"
        return self._folder / ("last.ckpt" if self.best_score is None else "best.ckpt")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Settle on the folder, alike in every process."""
        if stage == "fit":
            self._folder = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last one, and the best one where this is it."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set where mypy does not look
            return
        assert self._folder is not None
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        score = metrics.get(self.monitor)
        better = score is not None and (self.best_score is None or self._as_good(score, self.best_score))
        if better:
            self.best_score = score
            self.best_metrics = {name: value for name, value in metrics.items() if name.startswith(("val/", "angle/"))}
            trainer.save_checkpoint(self._folder / "best.ckpt")
        trainer.save_checkpoint(self._folder / "last.ckpt")

    def _as_good(self, score: float, best: float) -> bool:
        return score >= best if self.mode == "max" else score <= best

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return {"best_score": self.best_score, "best_metrics": self.best_metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back, unless the best checkpoint it speaks of was left behind in another folder."""
        if self._folder is not None and (self._folder / "best.ckpt").is_file():
            self.best_score, self.best_metrics = state_dict["best_score"], state_dict["best_metrics"]
