"""Which checkpoints a run keeps: the best by validation, and the last; and when it may stop."""

import time
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from arcface_pl.callbacks.run.processes import Agreement
from arcface_pl.callbacks.run.signals import Stopped, StopRequest
from arcface_pl.checkpoints.atomic import check_writable, sweep
from arcface_pl.checkpoints.plugin import DurableCheckpointIO
from arcface_pl.errors import CheckpointError

__all__ = ["RunCheckpoint"]


class RunCheckpoint(Checkpoint):
    """Writes checkpoints/last.ckpt after every epoch and in between, and best.ckpt when validation was never better.

    Without a validation split there is no best one: the test set chooses nothing, so the last one counts. The one
    before the last is kept as previous.ckpt. On SIGTERM or SIGINT the run saves the last one after the step it is in,
    or after the validation it is in, and ends with exit code 143 or 130.

    Args:
        monitor: Logged score that chooses the best, measured on the validation split.
        mode: Whether a higher or a lower score is better. Of two equal ones the later is kept.
        every_n_minutes: Write the last one within an epoch too, after so many minutes; above 0, unset for never.

    Attributes:
        best_metrics: All metrics of the validation split at the best checkpoint.
    """

    def __init__(
        self,
        monitor: str = "val/accuracy",
        mode: Literal["min", "max"] = "max",
        every_n_minutes: float | None = 10.0,
    ) -> None:
        super().__init__()
        if mode not in ("min", "max"):
            raise ValueError(f"mode: got {mode!r}, but it accepts min, max")
        if every_n_minutes is not None and not every_n_minutes > 0:
            raise ValueError(f"every_n_minutes: got {every_n_minutes!r}, but it accepts a number above 0, or none")
        self.monitor = monitor
        self.mode = mode
        self.every_n_minutes = every_n_minutes
        self.best_score: float | None = None
        self.best_metrics: dict[str, float] = {}
        self._folder: Path | None = None
        self._request = StopRequest()
        self._agreement: Agreement | None = None
        self._steps = 0
        self._saved = time.monotonic()
        self._just_saved = False

    @property
    def path(self) -> Path:
        """The checkpoint that counts: the best by validation, or the last where nothing was validated."""
        assert self._folder is not None, "a run has not begun"
        return self._folder / ("last.ckpt" if self.best_score is None else "best.ckpt")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Settle on the folder, alike in every process; clear it of what a killed run left half-written.

        Raises:
            CheckpointError: If nothing can be written there.
        """
        if stage != "fit":
            return
        self._folder = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
        if trainer.is_global_zero and not _keeps_nothing(trainer):
            prepare_folder(self._folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to listen for signals."""
        self._steps, self._saved = trainer.global_step, time.monotonic()
        self._agreement = Agreement(trainer.world_size, 2)
        if not _keeps_nothing(trainer):
            self._request.listen()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Save the last one where it is time, or the run is to stop."""
        stepped, self._steps = trainer.global_step > self._steps, trainer.global_step
        # Gradients that are being added up are in no checkpoint; a validation that is due would be left out on resume.
        if not stepped or _keeps_nothing(trainer) or _ends_epoch(trainer) or _validates(trainer, args[-1]):
            return
        assert self._agreement is not None
        waited = time.monotonic() - self._saved
        late = self.every_n_minutes is not None and waited >= 60 * self.every_n_minutes
        signum, due = self._agreement.later(self._request.signum, int(late))
        if signum or (due and not self._just_saved):
            self._save_last(trainer)
            self._just_saved = True  # the others' answer is still about the time before
        else:
            self._just_saved = False
        if signum:
            raise Stopped(signum, agreed=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last one, and the best one where this is it; stop where that was asked for."""
        if _keeps_nothing(trainer):
            return
        assert self._folder is not None
        assert self._agreement is not None
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        score = metrics.get(self.monitor)
        if score is not None and (self.best_score is None or self._as_good(score, self.best_score)):
            self.best_score = score
            self.best_metrics = {name: value for name, value in metrics.items() if name.startswith(("val/", "angle/"))}
            trainer.save_checkpoint(self._folder / "best.ckpt")
            self._save_last(trainer, written="best.ckpt")
        else:
            self._save_last(trainer)
        signum, _ = self._agreement.now(self._request.signum, 0)
        if signum:
            raise Stopped(signum, agreed=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen no longer: what follows has nothing to save."""
        self._request.release()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Listen no longer."""
        self._request.release()

    def _save_last(self, trainer: L.Trainer, written: str | None = None) -> None:
        """Write the last checkpoint; as a link to a file that has just been ``written`` with the same state."""
        assert self._folder is not None
        plugin = trainer.strategy.checkpoint_io
        if written is None or not isinstance(plugin, DurableCheckpointIO):
            trainer.save_checkpoint(self._folder / "last.ckpt")
        elif trainer.is_global_zero:
            plugin.link_checkpoint(self._folder / written, self._folder / "last.ckpt")
        self._saved = time.monotonic()

    def _as_good(self, score: float, best: float) -> bool:
        return score >= best if self.mode == "max" else score <= best

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return {"best_score": self.best_score, "best_metrics": self.best_metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back, unless the best checkpoint it speaks of was left behind in another folder."""
        if self._folder is not None and (self._folder / "best.ckpt").is_file():
            self.best_score, self.best_metrics = state_dict["best_score"], state_dict["best_metrics"]


def prepare_folder(folder: Path) -> None:
    """Make a folder for checkpoints, and see that it can be written in before any work is lost for want of that.

    Raises:
        CheckpointError: If it cannot.
    """
    try:
        check_writable(folder)
        sweep(folder)
    except OSError as error:
        raise CheckpointError(
            folder, f"nothing can be written there ({error.strerror})", "give another --default_root_dir"
        ) from error


def _keeps_nothing(trainer: Any) -> bool:
    return bool(trainer.fast_dev_run)


def _ends_epoch(trainer: L.Trainer) -> bool:
    return trainer.is_last_batch or trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step


def _validates(trainer: L.Trainer, batch_idx: int) -> bool:
    every = trainer.val_check_batch
    if not isinstance(every, int) or not trainer.enable_validation:
        return False
    return any((number + 1) % every == 0 for number in (batch_idx, trainer.fit_loop.total_batch_idx))
