"""What a run prints while it trains: a bar on a terminal, and a line per epoch everywhere."""

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from arcface_pl.callbacks.run.run_folder import run_folder
from arcface_pl.callbacks.tensorboard.writer import split_name
from arcface_pl.errors import printable

LOG_FILE = "train.log"
WIDTH = 79


class RunProgressBar(TQDMProgressBar):
    """Lightning's bar with the loss of the present step, on a terminal or in a notebook only.

    It fits 80 columns and leaves nothing behind: `EpochLines` prints what stays.

    Args:
        refresh_rate: Most steps between two updates, about a millisecond each; 0 disables the bar. A bar of few steps
            is updated after each twentieth of them.
    """

    def __init__(self, refresh_rate: int = 50) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._run: L.Trainer | None = None
        self._outputs: Any = None

    @property
    def is_enabled(self) -> bool:
        """Whether the bar is shown: in a file, each of its updates would be a line."""
        return super().is_enabled and (_is_terminal() or _is_notebook())

    @property
    def refresh_rate(self) -> int:
        """Steps between two updates: an epoch of 30 slow steps moves too."""
        rate: int = super().refresh_rate
        return rate if self._run is None else min(rate, max(1, _num_steps(self._run) // 20))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember the trainer, which knows how many steps there are."""
        super().setup(trainer, pl_module, stage)
        self._run = trainer

    def init_train_tqdm(self) -> Any:
        """Return a bar that disappears at the end of training."""
        return _passing(super().init_train_tqdm())

    def init_validation_tqdm(self) -> Any:
        """Return a bar that disappears at the end of the validation."""
        return _passing(super().init_validation_tqdm())

    def init_test_tqdm(self) -> Any:
        """Return a bar that disappears at the end of the test."""
        return _passing(super().init_test_tqdm())

    def init_predict_tqdm(self) -> Any:
        """Return a bar that disappears after the last prediction."""
        return _passing(super().init_predict_tqdm())

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Begin at 0 and count epochs from 1, as the lines do."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"Epoch {_epoch(trainer)}")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the bar if it is due."""
        self._outputs = outputs.get("loss") if isinstance(outputs, dict) else outputs
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, int | str | float | dict]:
        """Return what is shown next to the bar: the loss, and what a module of the user's puts there."""
        metrics = super().get_metrics(trainer, pl_module)
        shown = {name: value for name, value in metrics.items() if name != "v_num" and not _has_column(name)}
        loss = loss_of(trainer, pl_module, self._outputs)
        return shown if loss is None else {"loss": f"{loss.item():.4f}", **shown}


class EpochLines(L.Callback):
    """Prints a line per epoch and appends it to ``train.log`` in the run folder.

    Columns: epoch, mean loss of its training steps, accuracy on training images (of `TrainingAccuracy`, which comes
    first in the list of callbacks) and on validation images, each as predicted and with the margin left on the target
    class, and seconds. The seconds are those since the line before, or since training began: training, validation,
    and checkpoints. Metrics that a module of the user's logs with ``prog_bar=True`` follow while there is room.
    A validation score is shown in the epoch that measured it. Logs the mean loss as ``train/epoch_loss``.
    """

    def __init__(self) -> None:
        self._total: Tensor | float = 0.0
        self._steps = 0
        self._validated = False
        self._since = 0.0
        self._file: Path | None = None
        self._known: dict[str, str] = {}
        self._columns: dict[str, str] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since, self._known = time.monotonic(), {}
        self._file = None if trainer.fast_dev_run else run_folder(trainer) / LOG_FILE  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up the loss, without waiting for the device."""
        loss = loss_of(trainer, pl_module, outputs)
        if loss is not None:
            self._total = self._total + loss.to(torch.float32 if loss.device.type == "mps" else torch.float64)
            self._steps += 1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that this epoch has validation scores."""
        self._validated = self._validated or (trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line."""
        cells = {"epoch": _epoch(trainer)}
        if self._steps:
            mean = torch.as_tensor(self._total, device=pl_module.device, dtype=torch.float32) / self._steps
            mean = trainer.strategy.reduce(mean, reduce_op="mean")
            pl_module.log("train/epoch_loss", mean, sync_dist=True)
            cells["loss"] = _number(float(mean))
        cells |= self._scores(trainer)
        now = time.monotonic()
        cells["seconds"] = f"{now - self._since:.1f}"
        if trainer.is_global_zero:
            self._print(trainer, cells)
        self._total, self._steps, self._validated, self._since = 0.0, 0, False, now

    def state_dict(self) -> dict[str, Any]:
        """Return the part of the epoch that is done (of several processes, the first one's)."""
        return {"total": float(self._total), "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the part that is done."""
        self._total, self._steps = state_dict["total"], state_dict["steps"]

    def _scores(self, trainer: L.Trainer) -> dict[str, str]:
        """Return the scores of this epoch by column, ours and then the user's."""
        split, metrics = split_name(trainer), trainer.callback_metrics
        cells = {}
        for part in ("train", split):
            new = part == "train" or self._validated
            for name, column in (("accuracy", f"{part} acc"), ("margin_accuracy", f"{part} with margin")):
                if f"{part}/{name}" in metrics:
                    cells[column] = f"{float(metrics[f'{part}/{name}']):.2%}" if new else "-"
        for name, value in trainer.progress_bar_metrics.items():
            if not _has_column(name):
                stale = name.startswith("val") and not self._validated
                cells[printable(name)] = "-" if stale else f"{value:.2%}" if "acc" in name else _number(float(value))
        return cells

    def _print(self, trainer: L.Trainer, cells: dict[str, str]) -> None:
        if not cells.keys() <= self._known.keys():  # the first line, or the first after a validation
            resumed = not self._known and self._file is not None and self._file.exists()
            self._known = {**self._known, **cells}
            self._columns = _columns(self._known)
            self._say(trainer, "  ".join(self._columns.values()), keep=not resumed)
        names = self._columns.items()
        self._say(trainer, "  ".join(cells.get(name, "-").rjust(len(title)) for name, title in names), keep=True)

    def _say(self, trainer: L.Trainer, line: str, keep: bool) -> None:
        # Whoever reads the output may have ended, which is no reason to end a run; nor is a full disk
        with suppress(OSError, ValueError):
            bar = trainer.progress_bar_callback
            if bar is not None and getattr(bar, "is_enabled", True):
                bar.print(line)
            else:
                print(line, flush=True)  # noqa: T201
        if keep and self._file is not None:
            with suppress(OSError), self._file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def loss_of(trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any) -> Tensor | None:
    """Return the loss of a training step, detached, or None where a step returned none."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        return None
    # Lightning divides it by the number of batches whose gradients are added up
    return loss.detach().reshape(()) * (trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1)


def _columns(cells: dict[str, str]) -> dict[str, str]:
    """Return the column titles by name, padded to the width of their values; those that fit into 79 characters."""
    columns: dict[str, str] = {}
    room = WIDTH - len("  seconds")
    for name, value in cells.items():
        title = "with margin" if name.endswith(" with margin") else name
        title = title.rjust(len(value) if name == "epoch" else max(len(value), 7))
        room -= len(title) + 2 * bool(columns)
        if room >= 0 and name != "seconds":
            columns[name] = title
    return {**columns, "seconds": "seconds"}


def _has_column(name: str) -> bool:
    return name.startswith("train/loss") or name.partition("/")[2] in ("accuracy", "margin_accuracy")


def _epoch(trainer: L.Trainer) -> str:
    number, last = trainer.current_epoch + 1, trainer.max_epochs
    return f"{number}" if last is None or last < 0 else f"{number}/{last}".rjust(2 * len(str(last)) + 1)


def _num_steps(trainer: L.Trainer) -> int:
    """Return the steps of a training epoch, or of the longest data loader where nothing is trained."""
    parts = (trainer.num_val_batches, trainer.num_test_batches, trainer.num_predict_batches)
    steps = (
        [trainer.num_training_batches] if trainer.state.fn == TrainerFn.FITTING else [n for part in parts for n in part]
    )
    return int(min(max(steps, default=0), sys.maxsize))


def _number(value: float) -> str:
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3g}"


def _passing(bar: Any) -> Any:
    bar.leave = False
    return bar


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _is_notebook() -> bool:
    return type(sys.stdout).__module__.startswith("ipykernel")
