"""Accuracy on training images, measured as on validation images: in evaluation mode and without augmentation."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from arcface_pl.callbacks.outputs import warn_once
from arcface_pl.callbacks.tensorboard.writer import datamodule_of
from arcface_pl.data.protocol import labelled
from arcface_pl.errors import DataError
from arcface_pl.evaluation.thresholds import evenly_spread
from arcface_pl.functional.checks import check_count
from arcface_pl.heads import Head


class TrainingAccuracy(L.Callback):
    """Measures accuracy on the same training images after each epoch, and changes nothing about the run.

    Logs ``train/accuracy``, which ignores the label, and ``train/margin_accuracy``, which leaves the margin on the
    target class. The images are evenly spread over the training images and not augmented. Where weights are averaged,
    the average is measured, as in validation. A data module of this package hands out such images
    (``train_sample_dataloader``); of any other loader the data set is read as it is, with whatever augmentation it has
    in itself, and a warning says so.

    Args:
        num_images: Training images to measure on, at least 1; None for all of them.

    Raises:
        ValueError: If ``num_images`` is out of range.
    """

    def __init__(self, num_images: int | None = 2000) -> None:
        if num_images is not None:
            check_count("num_images", num_images, low=1)
        self.num_images = num_images
        self._batches: Iterable[Any] | None = None
        self._logged = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the images."""
        self._batches, self._logged = self._choose(trainer, pl_module), False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, and log both accuracies; unless the module itself logs ``train/accuracy``."""
        if self._batches is None or (not self._logged and "train/accuracy" in trainer.callback_metrics):
            return
        with isolate_rng(), _evaluating(trainer, pl_module):
            counts = self._count(trainer, pl_module)
        right, right_with_margin, total = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        if total:
            shares = {"train/accuracy": right / total, "train/margin_accuracy": right_with_margin / total}
            pl_module.log_dict(shares, sync_dist=True)
            self._logged = True

    def _count(self, trainer: L.Trainer, module: Any) -> Tensor:
        """Return how many images were right, right with the margin, and how many there were."""
        counts = torch.zeros(3, dtype=torch.int64, device=module.device)
        assert self._batches is not None
        for batch in self._batches:
            moved = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
            try:
                images, labels = labelled(moved)
            except DataError as error:
                self._unmeasured(str(error))
                break
            with trainer.precision_plugin.forward_context():
                embeddings = module(images)
            scores, labels = module.head.score(embeddings, labels), labels.long()
            right = (scores.predictions == labels).sum(), (scores.margin_predictions == labels).sum()
            counts += torch.stack((*right, torch.full_like(right[0], len(labels))))
        return counts

    def _choose(self, trainer: L.Trainer, module: Any) -> Iterable[Any] | None:
        """Return a loader of the images, or None where they or their scores cannot be had."""
        if not isinstance(getattr(module, "head", None), Head):
            self._unmeasured(f"head: got {type(getattr(module, 'head', None)).__name__}; expected a Head")
            return None
        data = datamodule_of(trainer)
        if batches := trainer.overfit_batches:  # type: ignore[attr-defined]  # set where mypy does not look
            self._unmeasured(f"trainer.overfit_batches: got {batches}; expected 0 to measure training images")
            return None
        if hasattr(data, "train_sample_dataloader"):
            return data.train_sample_dataloader(self.num_images)
        loader = trainer.train_dataloader
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            self._unmeasured(f"train_dataloader: got {type(loader).__name__}; expected a DataLoader over a Dataset")
            return None
        warn_once(self, "training images come from the data set of train_dataloader, with any augmentation it has")
        count = len(loader.dataset)  # type: ignore[arg-type]  # a map-style data set
        rows = evenly_spread(count, count if self.num_images is None else self.num_images)
        rows = rows[trainer.global_rank : len(rows) - len(rows) % trainer.world_size : trainer.world_size]
        images = Subset(loader.dataset, rows.tolist())
        # Without workers: those of the training loader may live on, and have random states of their own
        return DataLoader(images, loader.batch_size or 1, collate_fn=loader.collate_fn)

    def _unmeasured(self, reason: str) -> None:
        warn_once(self, f"{reason}. Training accuracy is not measured")


@contextmanager
def _evaluating(trainer: L.Trainer, module: L.LightningModule) -> Iterator[None]:
    """Put a module into evaluation mode without gradients, with averaged weights if there are any; then back."""
    averages = [each for each in trainer.callbacks if isinstance(each, WeightAveraging)]  # type: ignore[attr-defined]
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    for each in averages:
        each.on_validation_epoch_start(trainer, module)
    try:
        with torch.no_grad():
            yield
    finally:
        for each in averages:
            each.on_validation_epoch_end(trainer, module)
        for part, training in modes:
            part.training = training
