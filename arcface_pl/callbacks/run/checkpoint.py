"""The best and the last checkpoint of a run, and stopping at a resumable point."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from arcface_pl.callbacks.run.private_apis import validates_after
from arcface_pl.callbacks.run.processes import Agreement
from arcface_pl.callbacks.run.run_folder import RunFolder, run_folder
from arcface_pl.callbacks.run.signals import STOP_SIGNALS, Stopped, StopRequest, check_signals
from arcface_pl.checkpoints.atomic import check_writable, sweep
from arcface_pl.checkpoints.plugin import DurableCheckpointIO
from arcface_pl.checkpoints.reading import read_checkpoint
from arcface_pl.errors import CheckpointError, SettingsError, expected, listed
from arcface_pl.functional.checks import check_choice

_DEFAULT_MONITOR = "val/accuracy"  # other modules need not log it; a run without it has no best checkpoint


class RunCheckpoint(Checkpoint):
    """Writes checkpoints/last.ckpt after every epoch and in between, and best.ckpt when a validation was never better.

    Without a validation split there is no best checkpoint: the last one counts, since the test set selects nothing.
    The one before the last is kept as previous.ckpt. On one of ``signals`` the run writes last.ckpt
    after the present step or validation and exits with 128 plus the signal's number.

    Args:
        monitor: Logged score that selects the best, measured in validation.
        mode: "max" if higher is better, "min" if lower is. Of two equal scores the later counts.
        every_n_minutes: Minutes between two last.ckpt within an epoch, above 0; unset: only after each epoch.
        signals: Names of signals that stop training at a resumable point. On others that ask a process to end, it ends
            at once.

    Attributes:
        best_score: ``monitor`` at the best checkpoint; None before the first validation.
        best_metrics: All validation metrics at the best checkpoint.
    """

    def __init__(
        self,
        monitor: str = _DEFAULT_MONITOR,
        mode: Literal["min", "max"] = "max",
        every_n_minutes: float | None = 10.0,
        signals: Sequence[str] = STOP_SIGNALS,
    ) -> None:
        super().__init__()
        check_choice("mode", mode, ("min", "max"))
        if every_n_minutes is not None and not every_n_minutes > 0:
            raise ValueError(expected("every_n_minutes", every_n_minutes, "a number above 0, or null"))
        self.monitor = monitor
        self.mode = mode
        self.every_n_minutes = every_n_minutes
        self.best_score: float | None = None
        self.best_metrics: dict[str, float] = {}
        self._folder: Path | None = None
        self._resumed: dict[str, Any] = {}
        self._request = StopRequest(check_signals(signals))
        self._agreement: Agreement | None = None
        self._steps = 0
        self._validated_at = -1
        self._saved = time.monotonic()
        self._just_saved = False

    @property
    def path(self) -> Path:
        """The checkpoint that counts: the best by validation, or the last where nothing was validated."""
        if self._folder is None:
            raise RuntimeError("RunCheckpoint.path: got a run that has not begun; expected it after Trainer.fit")
        return self._folder / ("last.ckpt" if self.best_score is None else "best.ckpt")

    @property
    def best_model_path(self) -> str:
        """`path` as text, or "" where nothing was written, as in Lightning's ModelCheckpoint.

        Lightning sets it in the main process when spawned processes have trained: the rest is read from last.ckpt.
        """
        return str(self.path) if self._folder is not None and self.path.is_file() else ""

    @best_model_path.setter
    def best_model_path(self, path: str) -> None:
        if path and path != self.best_model_path:
            self._folder = Path(path).parent
            self.load_state_dict(read_checkpoint(self._folder / "last.ckpt")["callbacks"][self.state_key])
            self._restore()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prepare to find out which run is resumed."""
        if stage == "fit" and not _keeps_nothing(trainer):
            RunFolder.of(trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the folder, the same in every process, and remove what a killed run left half-written.

        Raises:
            CheckpointError: If the folder is not writable.
        """
        if _keeps_nothing(trainer):
            return
        self._folder = run_folder(trainer) / "checkpoints"
        if trainer.is_global_zero:
            prepare_folder(self._folder)
        self._restore()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen for signals."""
        self._steps, self._saved = trainer.global_step, time.monotonic()
        self._agreement = Agreement(trainer.world_size, 2)
        if not _keeps_nothing(trainer):
            self._request.listen()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Write last.ckpt if it is due or the run is to stop."""
        stepped, self._steps = trainer.global_step > self._steps, trainer.global_step
        # Checkpoints hold no accumulated gradients, and a resumed run would leave out a validation that is due.
        if not stepped or _keeps_nothing(trainer) or _ends_epoch(trainer) or validates_after(trainer, args[-1]):
            return
        assert self._agreement is not None
        waited = time.monotonic() - self._saved
        late = self.every_n_minutes is not None and waited >= 60 * self.every_n_minutes
        signum, due = self._agreement.later(self._request.signum, int(late))
        if signum or (due and not self._just_saved):
            self._save_last(trainer)
            self._just_saved = True  # the others' next answer is still about the time before
        else:
            self._just_saved = False
        if signum:
            raise Stopped(signum, agreed=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge a validation within an epoch; one at its end waits for the epoch's other callbacks."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or _keeps_nothing(trainer):
            return
        self._validated_at = trainer.global_step
        if not _ends_epoch(trainer):
            self._judge(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write last.ckpt, and best.ckpt if a validation of these weights was the best; stop if asked to."""
        if _keeps_nothing(trainer):
            return
        # Metrics that were measured at another step are those of other weights
        is_best = self._validated_at == trainer.global_step and self._judge(trainer)
        self._save_last(trainer, written="best.ckpt" if is_best else None)
        assert self._agreement is not None
        signum, _ = self._agreement.now(self._request.signum, 0)
        if signum:
            raise Stopped(signum, agreed=True)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop listening."""
        self._request.release()

    on_exception = on_train_end

    def _judge(self, trainer: L.Trainer) -> bool:
        """Write best.ckpt if the score was never better; return whether it was."""
        assert self._folder is not None
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        score = metrics.get(self.monitor)
        if score is None and self.monitor != _DEFAULT_MONITOR:
            raise SettingsError(expected("trainer.callbacks.monitor", self.monitor, f"one of {listed([*metrics])}"))
        if score is None or math.isnan(score):  # nothing would be better than NaN
            return False
        if self.best_score is not None and not self._as_good(score, self.best_score):
            return False
        self.best_score = score
        self.best_metrics = {name: value for name, value in metrics.items() if name.startswith("val/")}
        trainer.save_checkpoint(self._folder / "best.ckpt", weights_only=False)
        return True

    def _save_last(self, trainer: L.Trainer, written: str | None = None) -> None:
        """Write the last checkpoint; as a link to a file that has just been ``written`` with the same state."""
        assert self._folder is not None
        plugin = trainer.strategy.checkpoint_io
        if written is None or not isinstance(plugin, DurableCheckpointIO):
            trainer.save_checkpoint(self._folder / "last.ckpt", weights_only=False)
        elif trainer.is_global_zero:
            plugin.link_checkpoint(self._folder / written, self._folder / "last.ckpt")
        self._saved = time.monotonic()

    def _as_good(self, score: float, best: float) -> bool:
        return score >= best if self.mode == "max" else score <= best

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        judged = {"monitor": self.monitor, "mode": self.mode}
        return {"best_score": self.best_score, "best_metrics": self.best_metrics, **judged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember it until the folder is known."""
        self._resumed = state_dict

    def _restore(self) -> None:
        """Restore the best score, unless its checkpoint is in another folder, or it is of another monitor."""
        judged = self.monitor, self.mode
        comparable = (self._resumed.get("monitor", self.monitor), self._resumed.get("mode", self.mode)) == judged
        if self._resumed and comparable and self._folder is not None and (self._folder / "best.ckpt").is_file():
            self.best_score, self.best_metrics = self._resumed["best_score"], self._resumed["best_metrics"]
        self._resumed = {}


def prepare_folder(folder: Path) -> None:
    """Create a folder for checkpoints and check, before any work, that it is writable.

    Raises:
        CheckpointError: If it is not.
    """
    try:
        check_writable(folder)
        sweep(folder)
    except OSError as error:
        raise CheckpointError(folder, f"not writable ({error.strerror})", "use another --default_root_dir") from error


def _keeps_nothing(trainer: Any) -> bool:
    return bool(trainer.fast_dev_run)


def _ends_epoch(trainer: L.Trainer) -> bool:
    return trainer.is_last_batch or trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
