"""Thresholds measured while validating, for the checkpoint."""

import math
from contextlib import suppress
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from arcface_pl.evaluation.thresholds import DEFAULT_FAR, Scored, calibrate, evenly_spread
from arcface_pl.functional.checks import check_count, check_number
from arcface_pl.metrics.states import gather_rows

__all__ = ["ThresholdCalibration"]

SCORES = ("val/", "angle/")


class ThresholdCalibration(L.Callback):
    """Chooses the thresholds of a trained model at a false accept rate, and keeps them in its checkpoints.

    From which cosine on two pictures count as one class, and a picture as one of the trained classes: measured on
    embeddings that validation has computed anyway, so that it costs milliseconds. Where the data module holds classes
    out from training, their training images are embedded too, at most ``num_images`` of them, and the thresholds are
    those for classes that the model was not trained on; see `arcface_pl.evaluation.thresholds.calibrate`.
    Every process ends with the same thresholds. Without validation, or where it looks at the test set, none are stored.

    Args:
        far: False accept rate, in (0, 1).
        num_images: Validation images to measure on at most, evenly spread over the split, at least 2.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(self, far: float = DEFAULT_FAR, num_images: int = 2000) -> None:
        check_number("far", far, low=0, high=1, low_open=True)
        check_count("num_images", num_images, low=2)
        self.far = far
        self.num_images = num_images
        self._known: list[Scored] = []
        self._unknown: list[Scored] = []
        self._found: dict[str, Any] = {}
        self._step = -1

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the last validation."""
        self._known, self._unknown, self._found = [], [], {}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a fair share of the batch's embeddings."""
        if not _is_wanted(trainer):
            return
        if not self._known:
            # Here, not at the epoch's end: a callback that averages the weights has put them back by then
            self._unknown = self._score_held_out(trainer, pl_module)
        rows = self._rows(trainer.world_size * int(sum(trainer.num_val_batches)), outputs["labels"])
        own, other = (torch.cos(torch.deg2rad(outputs[f"{name}_angle"][rows])) for name in ("target", "nearest_other"))
        self._known.append(Scored(outputs["embeddings"][rows].float(), outputs["labels"][rows], own, other))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, alike in every process."""
        if not _is_wanted(trainer):
            return
        known = self._gather(self._known, pl_module.device)
        unknown = self._gather(self._unknown, pl_module.device) if _held_out(trainer) else None
        source = "validation" if unknown is None else "held-out classes"
        # One class, one image a class, or weights that are no numbers leave nothing to choose a threshold by
        with suppress(ValueError):
            self._found = calibrate(known, unknown, far=self.far, source=source).to_dict()
        self._known, self._unknown, self._step = [], [], trainer.global_step

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the thresholds and scores, where they are those of the weights that are saved."""
        if self._found and self._step == trainer.global_step:
            checkpoint["calibration"] = self._found
            scores = trainer.callback_metrics.items()
            checkpoint["validation"] = {key: float(value) for key, value in scores if key.startswith(SCORES)}

    def _score_held_out(self, trainer: L.Trainer, pl_module: Any) -> list[Scored]:
        if not _held_out(trainer):
            return []
        batches = trainer.datamodule.held_out_dataloader("val")  # type: ignore[attr-defined]  # set where mypy does not look
        parts = []
        for images, labels in batches:
            rows = self._rows(trainer.world_size * len(batches), labels)
            parts.append(Scored.by(pl_module.head, pl_module(images[rows]).float(), labels[rows], trained=False))
        return parts

    def _rows(self, num_batches: int, labels: Tensor) -> Tensor:
        wanted = math.ceil(self.num_images / max(1, num_batches))
        return evenly_spread(len(labels), wanted).to(labels.device)

    def _gather(self, parts: list[Scored], device: torch.device) -> Scored:
        """Join what all processes have, less what the shares were rounded up by; one that saw no batch brings none."""
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        columns = columns or [torch.empty(0, device=device) for _ in Scored._fields]
        if dist.is_available() and dist.is_initialized():
            columns = [torch.cat(gather_rows(column)) for column in columns]
        rows = evenly_spread(len(columns[0]), self.num_images).to(device)
        return Scored(*(column[rows] for column in columns))


def _is_wanted(trainer: L.Trainer) -> bool:
    """Whether this validation is one of a training run, on images that may choose something: never the test set."""
    is_test = getattr(getattr(trainer, "datamodule", None), "val_prefix", "val") == "test"
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and not is_test


def _held_out(trainer: L.Trainer) -> list[str]:
    return getattr(getattr(trainer, "datamodule", None), "held_out_class_names", [])
