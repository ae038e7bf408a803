"""The folder of a run: `run_folder` returns it, for everything that writes files into it."""

import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L

from arcface_pl.callbacks.run.logger import RunLogger
from arcface_pl.callbacks.run.private_apis import join_folder, move_logger
from arcface_pl.callbacks.run.resumed_settings import has_other_data
from arcface_pl.callbacks.run.run_metrics import RunMetrics
from arcface_pl.checkpoints.atomic import claim_folder, missing_folders
from arcface_pl.checkpoints.runs import MARK, mark_run, owner_of, record_elsewhere
from arcface_pl.errors import CheckpointError

_URL = "[a-z][a-z0-9+.]+:/"  # as a Path has it: s3://bucket would become a local folder s3:


class RunFolder(L.Callback):
    """Keeps the folder and the identity of a run, and stores the identity in checkpoints.

    Attributes:
        path: The folder; None before it is claimed.
        run_id: Marks the files of this run; unique.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self.run_id = uuid.uuid4().hex
        self._agreed = False
        self._made: Sequence[Path] = ()

    @classmethod
    def of(cls, trainer: Any) -> "RunFolder":
        """Return the keeper of a Trainer's folder; the first call adds it, so that it sees the resumed checkpoint."""
        found = next((each for each in trainer.callbacks if isinstance(each, cls)), None)
        if found is None:
            found = cls()
            trainer.callbacks.append(found)
        return found

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record that the run is started, or resumed, now: `last` and `best` mean the newest run."""
        if trainer.is_global_zero and self.path is not None:
            with suppress(OSError):
                mark_run(self.path, self.run_id)
            record_elsewhere(self.path)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the run's identity."""
        checkpoint["run"] = self.run_id

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue in default_root_dir if the run that is resumed has it, and the data are the same."""
        root = Path(trainer.default_root_dir)
        if has_other_data(getattr(trainer, "datamodule", None), checkpoint):
            return
        if self.path is None and not trainer.loggers and owner_of(root) == checkpoint.get("run", ""):
            self.path, self.run_id = root, checkpoint["run"]

    def claim(self, trainer: Any, suffix: str = "") -> Path:
        """Create the folder, unless there is one, and have file loggers write into it; in the main process only.

        Raises:
            CheckpointError: If it cannot be created, or is a URL.
        """
        if self.path is not None:
            return self.path
        logger = next((each for each in trainer.loggers if isinstance(each, RunLogger)), None)
        root = Path(trainer.default_root_dir) / "lightning_logs" if logger is None else Path(logger.root_dir)
        if re.match(_URL, str(root)):
            raise CheckpointError(root, "a URL, not a folder", "use another --default_root_dir")
        made = missing_folders(root)
        try:
            if logger is None:
                self.path = claim_folder(root, suffix)
            else:
                logger.suffix = logger.suffix or suffix
                self.path = Path(logger.log_dir)
                self.path.mkdir(parents=True, exist_ok=True)  # the logger may have been given another since
            mark_run(self.path, self.run_id)
        except OSError as error:
            fault = f"not writable ({error.strerror})"
            raise CheckpointError(root, fault, "use another --default_root_dir") from error
        self._made = (self.path, *made)
        self._join_loggers(trainer)
        return self.path

    def agree(self, trainer: Any) -> Path:
        """Have every process use the main process's folder; a collective call the first time."""
        if not self._agreed:
            if trainer.is_global_zero and not (self.path is None and not trainer.loggers and self._take_root(trainer)):
                self.claim(trainer)
            self.path, self.run_id = trainer.strategy.broadcast((self.path, self.run_id))
            self._agreed = True
            self._join_loggers(trainer)
        assert self.path is not None
        return self.path

    def continue_in(self, trainer: Any, folder: Path, run_id: str) -> None:
        """Continue in the folder of an earlier run.

        Loggers that cannot append, such as CSVLogger, get a new folder inside.
        """
        self.path, self.run_id, self._agreed = folder, run_id, True
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                move_logger(logger, folder)
        if trainer.is_global_zero:
            self._join_loggers(trainer)

    def _join_loggers(self, trainer: Any) -> None:
        assert self.path is not None
        has_metrics = any(isinstance(each, RunMetrics) for each in trainer.loggers)
        for logger in trainer.loggers:
            join_folder(logger, self.path, has_metrics)

    def _take_root(self, trainer: Any) -> bool:
        """Take default_root_dir itself, for a Trainer without logger; return whether no run has it yet."""
        root = Path(trainer.default_root_dir)
        if re.match(_URL, str(root)):
            return False
        try:
            (root / "checkpoints").mkdir(parents=True)
            mark_run(root, self.run_id)
        except OSError:
            return False
        self.path = root
        return True

    def release(self) -> None:
        """Remove the folders that were made for a run that ended before its first step, as far as they are empty."""
        if self.path is None or self.path not in self._made:
            return
        if (self.path / "config.yaml").exists() or any(self.path.glob("*/*.ckpt")):
            return
        for left in (self.path / MARK, *self.path.glob("events.out.tfevents.*")):
            left.unlink(missing_ok=True)
        inside = [each for each in self.path.iterdir() if each.is_dir()]
        for folder in (*inside, *self._made):
            with suppress(OSError):
                folder.rmdir()


def run_folder(trainer: L.Trainer) -> Path:
    """Return the folder of a Trainer's run; the first call creates it.

    It is ``version_N`` below the RunLogger's folder, or below ``default_root_dir/lightning_logs`` without one, with a
    number that no run had before. A Trainer without any logger, outside the command line, takes ``default_root_dir``
    itself if no run has. Every process must make the first call at the same place.

    Raises:
        CheckpointError: If it cannot be created.
    """
    return RunFolder.of(trainer).agree(trainer)
