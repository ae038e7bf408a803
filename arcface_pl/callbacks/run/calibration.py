"""Thresholds measured during validation and stored in the checkpoint."""

from contextlib import suppress
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn

from arcface_pl.callbacks.outputs import ScoredBatch, ScoredCallback, num_batches_of, share_of_rows
from arcface_pl.callbacks.tensorboard.writer import datamodule_of, split_name
from arcface_pl.data.protocol import fact, labelled
from arcface_pl.evaluation.thresholds import DEFAULT_FAR, Scored, calibrate, evenly_spread
from arcface_pl.functional.checks import check_count, check_number
from arcface_pl.metrics.states import gather_rows

SCORES = "val/"


class ThresholdCalibration(ScoredCallback):
    """Chooses cosine thresholds at a false accept rate after each validation and stores them in checkpoints.

    One threshold for "same class?" (two images) and one for "known class?" (an image against the class centers),
    measured on embeddings that validation has computed already, in milliseconds. If the data module holds out classes,
    up to ``num_images`` of their training images are embedded as well, and the thresholds are those for classes the
    model was not trained on; see `arcface_pl.evaluation.thresholds.calibrate`. Every process ends with the same
    thresholds. None are stored without validation or if it uses the test set.

    Args:
        far: False accept rate, in (0, 1).
        num_images: Maximum number of validation images to measure on, evenly spread over the split, at least 2.

    Raises:
        ValueError: If a value is out of range.
    """

    needs = ("embeddings", "labels", "target_angle", "nearest_other_angle")

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

    def wants(self, trainer: L.Trainer) -> bool:
        """Return whether this is a validation of a training run, and not on the test set."""
        return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and split_name(trainer) != "test"

    def on_scored_batch(self, trainer: L.Trainer, scored: ScoredBatch, batch: Any, batch_idx: int) -> None:
        """Keep this batch's share of the embeddings."""
        if not self._known:
            # Not at the epoch's end: by then a callback that averages weights has restored the trained ones
            self._unknown = self._score_held_out(trainer, trainer.lightning_module)
        num_batches = trainer.world_size * num_batches_of(trainer)
        rows = share_of_rows(scored["labels"], self.num_images, num_batches, batch_idx)
        embeddings, labels, *angles = (scored[name][rows] for name in self.needs)  # type: ignore[literal-required]
        self._known.append(Scored(embeddings.float(), labels, *(torch.cos(torch.deg2rad(each)) for each in angles)))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the thresholds, the same in every process."""
        if not self.wants(trainer):
            return
        known = self._gather(self._known, pl_module.device)
        unknown = self._gather(self._unknown, pl_module.device) if _held_out(trainer) else None
        unknown = unknown if unknown is not None and len(unknown.labels) else None  # they may have test images only
        source = "validation" if unknown is None else "held-out classes"
        # A single class, one image per class or non-finite weights leave nothing to choose a threshold by
        with suppress(ValueError):
            self._found = calibrate(known, unknown, far=self.far, source=source).to_dict()
        self._known, self._unknown, self._step = [], [], trainer.global_step

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add thresholds and scores if they belong to the saved weights."""
        if self._found and self._step == trainer.global_step:
            checkpoint["calibration"] = self._found
            scores = trainer.callback_metrics.items()
            checkpoint["validation"] = {key: float(value) for key, value in scores if key.startswith(SCORES)}

    def _score_held_out(self, trainer: L.Trainer, pl_module: Any) -> list[Scored]:
        if not _held_out(trainer):
            return []
        batches = trainer.datamodule.held_out_dataloader("val")  # type: ignore[attr-defined]  # set where mypy does not look
        parts = []
        for batch_idx, (images, labels) in enumerate(map(labelled, batches)):
            rows = share_of_rows(labels, self.num_images, trainer.world_size * len(batches), batch_idx)
            parts.append(Scored.by(pl_module.head, pl_module(images[rows]).float(), labels[rows], trained=False))
        return parts

    def _gather(self, parts: list[Scored], device: torch.device) -> Scored:
        """Concatenate over all processes, some of which may have seen no batch, and cut to ``num_images``."""
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        columns = columns or [torch.empty(0, device=device) for _ in Scored._fields]
        if dist.is_available() and dist.is_initialized():
            columns = [torch.cat(gather_rows(column)) for column in columns]
        rows = evenly_spread(len(columns[0]), self.num_images).to(device)
        return Scored(*(column[rows] for column in columns))


def _held_out(trainer: L.Trainer) -> list[str]:
    data = datamodule_of(trainer)
    return fact(data, "held_out_class_names", []) if hasattr(data, "held_out_dataloader") else []
