"""`ArcFaceModule`: the LightningModule that trains a backbone and a margin head together."""

import inspect
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from arcface_pl.backbones.adapter import adapt, example_images
from arcface_pl.callbacks.outputs import ScoredBatch
from arcface_pl.callbacks.run.compile import CompileMode
from arcface_pl.callbacks.run.defaults import run_callbacks
from arcface_pl.callbacks.run.freezing import Freeze
from arcface_pl.callbacks.run.private_apis import log_interval
from arcface_pl.callbacks.run.resumed_settings import FINE_TUNING
from arcface_pl.callbacks.tensorboard.writer import datamodule_of, split_name
from arcface_pl.checkpoints.specs import spec_of
from arcface_pl.data.protocol import check_names, fact, facts_of, images_and_labels, labelled, sizes_of
from arcface_pl.errors import DataError, printable
from arcface_pl.heads import Head
from arcface_pl.seeding import run_seed
from arcface_pl.training.distillation import Distillation, read_teacher
from arcface_pl.training.extra_losses import ExtraLoss, ExtraLosses
from arcface_pl.training.hyperparameters import (
    TEACHING,
    RestorableModule,
    arguments_of_subclasses,
    is_kept,
    plain,
    trainer_of,
)
from arcface_pl.training.init_from import load_weights, local_path, unlike_order, unlike_pretraining
from arcface_pl.training.loss_specs import restorable
from arcface_pl.training.module_checks import check_pair, check_settings
from arcface_pl.training.optimizers import OptimizerCallable, adam, build_optimizer
from arcface_pl.training.schedules import configure_schedule
from arcface_pl.training.scores import Scores


class ArcFaceModule(RestorableModule):
    """Trains a backbone and a margin head; reports accuracy without the margin.

    ``module(images)`` returns embeddings. ``module.head.predict(embeddings)`` classifies them without seeing a label:
    ``*/accuracy`` is measured that way. ``*/margin_accuracy`` leaves the margin on the target class, as many published
    training loops do; it is not an accuracy of the network.

    To change a step, override it: each is a few lines. `configure_callbacks` returns what a run adds to the Trainer
    (non-finite guard, seeds per step, exact resume, ...); see `arcface_pl.callbacks.run.defaults`.

    Args:
        backbone: Maps images (B, C, H, W) to embeddings (B, D), or to what `arcface_pl.backbones.adapter.adapt` reduces
            to them. The command line fills in its sizes from the data.
        head: Holds the class centers and computes the loss. The command line fills in its sizes.
        optimizer: Makes the optimizer from the parameter groups "backbone" and "head".
        lr_schedule: Makes the learning rate schedule from the optimizer. This package's schedules span the whole run
            and step every batch; those of torch step every epoch, ReduceLROnPlateau by its ``monitor`` (default
            "val/loss"). Unset: constant rate.
        head_lr: Peak learning rate of the class centers, above 0. Unset: the optimizer's.
        channels_last: Store images and convolution weights in channels-last order, faster on CPUs and recent GPUs.
        shard_head: Keep in each process only its share of the classes; see `arcface_pl.shard_head`.
        head_sample_rate: Share of the classes in a training step, in (0, 1] (Partial FC). Below 1 it needs
            ``update_head_in_backward``.
        update_head_in_backward: Update the class centers inside the backward pass, with the rate, momentum and weight
            decay of their parameter group, so that their gradient is never stored: by the rule of the optimizer, which
            is SGD, Adam or AdamW, or by SGD whatever the optimizer ("sgd", which then needs ``head_lr``).
        num_threads: CPU threads per process while training, at least 1; gradients differ in their last bit between
            thread counts. Unset: torch's.
        compile: torch.compile mode for the backbone's training steps: "default", or "reduce-overhead" for CUDA graphs.
            Unset: eager. The first step waits for the compiler; measure whether it pays.
        matmul_precision: Precision of float32 matrix products while training, including the head's: "highest", or
            "high" and "medium" for TF32 and bfloat16 where the device supports them; a cosine then has 3 and 2 digits.
            Unset: torch's. Convolutions on a GPU use TF32 by torch's default.
        init_from: File of the backbone's initial weights: a checkpoint (.ckpt, best, last), a folder of
            save_pretrained, a state dict (.pt, .pth, .safetensors), or a Hugging Face repository. Read when a new run
            begins, and never again.
        freeze: "backbone": train the head alone, and the last ``trainable_blocks``; "batch_norm": keep the statistics
            of batch normalization in the backbone. Or both, as a list.
        trainable_blocks: Blocks at the end of a frozen backbone that are trained, at least 0; see
            `arcface_pl.backbones.blocks.blocks_of`. Unset: none.
        unfreeze_at_epoch: First epoch, counted from 0, in which all of the backbone is trained, at least 1. Unset:
            never.
        backbone_lr_factor: Peak learning rate of the backbone as a multiple of the optimizer's, above 0. Unset: 1.
        extra_losses: Losses that are added to the head's, such as those of pytorch-metric-learning. Several processes
            compute them on the batches of all. Their parameters, if any, are trained at the rate of the class centers.
        teacher: A trained model whose embeddings the backbone learns besides (distillation): a checkpoint, a folder of
            save_pretrained, or an ONNX file with a YAML file beside it. Read when training begins; never saved.
        teacher_weight: Factor of the distillation's loss, above 0.

    Raises:
        ValueError: If head and backbone disagree on the width of embeddings, or a value is out of range.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: Head,
        optimizer: OptimizerCallable = adam,
        lr_schedule: LRSchedulerCallable | None = None,
        head_lr: float | None = None,
        channels_last: bool = True,
        shard_head: bool = False,
        head_sample_rate: float = 1.0,
        update_head_in_backward: bool | Literal["sgd"] = False,
        num_threads: int | None = None,
        compile: CompileMode | None = None,
        matmul_precision: Literal["highest", "high", "medium"] | None = None,
        init_from: str | Path | None = None,
        freeze: Freeze | list[Freeze] | None = None,
        trainable_blocks: int | None = None,
        unfreeze_at_epoch: int | None = None,
        backbone_lr_factor: float | None = None,
        extra_losses: list[ExtraLoss] | ExtraLoss | None = None,
        teacher: str | Path | None = None,
        teacher_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_pair(backbone, head)
        backbone = adapt(backbone)
        self.backbone = backbone.to(memory_format=torch.channels_last) if channels_last else backbone
        self.head = head
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.head_lr = head_lr
        self.channels_last = channels_last
        self.shard_head = shard_head
        self.head_sample_rate = head_sample_rate
        self.update_head_in_backward = update_head_in_backward
        self.num_threads = num_threads
        self.compile_mode = compile
        self.matmul_precision = matmul_precision
        self.init_from = init_from
        self.frozen_parts = [freeze] if isinstance(freeze, str) else freeze  # `freeze` is Lightning's method
        self.trainable_blocks = trainable_blocks
        self.unfreeze_at_epoch = unfreeze_at_epoch
        self.backbone_lr_factor = backbone_lr_factor
        self.teacher, self.teacher_weight = None if teacher is None else str(teacher), teacher_weight
        check_settings(self)
        self.extra_losses = ExtraLosses(extra_losses, head.embedding_dim, head.num_classes) if extra_losses else None
        self.distillation: Distillation | None = None
        self.scores = nn.ModuleDict({split: Scores(split, head.num_classes) for split in ("val", "test")})
        self.data_facts: dict[str, Any] = {}
        self.example_input_array = example_images(backbone)
        self._keep_settings()

    def _keep_settings(self) -> None:
        self.specs = {"backbone": spec_of(self.backbone), "head": spec_of(self.head)}
        kept = ("head_lr", "channels_last", *FINE_TUNING, *(TEACHING if self.teacher is not None else ()))
        if self.extra_losses is not None:
            widths = {"embedding_size": self.head.embedding_dim, "num_classes": self.head.num_classes}
            self.loss_specs = restorable(self.extra_losses, widths)
        settings = {"freeze": self.frozen_parts, **{name: getattr(self, name) for name in kept}}
        own = arguments_of_subclasses(inspect.currentframe(), settings)
        self.not_kept = [name for name, value in own.items() if not is_kept(value)]
        settings |= self.specs | {name: value for name, value in own.items() if name not in self.not_kept}
        self.save_hyperparameters(settings, frame=inspect.currentframe(), logger=False)  # see ImageDataModule

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, C, H, W); returns embeddings (B, D), not normalized."""
        if self.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.backbone(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch, (images, labels) in any form of `images_and_labels`; log it at intervals.

        Other steps log nothing, so that they do not wait for the device.
        """
        images, labels = labelled(batch)
        embeddings = self(images)
        loss, extra = self.head.loss(embeddings, labels), {}
        if self.extra_losses is not None:
            extra = self.extra_losses(embeddings, labels)
            loss = loss + self.extra_losses.total(extra)
        if self.distillation is not None:
            extra["distillation"] = self.distillation(embeddings, images)
            loss = loss + self.teacher_weight * extra["distillation"]
        trainer = trainer_of(self)  # None in a loop of one's own
        if trainer is not None and (self.global_step + 1) % log_interval(trainer) == 0:
            self.log("train/loss", loss, prog_bar=True)
            self.log_dict({f"train/{name}": value for name, value in extra.items()})
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> ScoredBatch:
        """Score (images, labels); returns what callbacks read, see `ScoredBatch`. Several loaders are scored as one."""
        return self._score(split_name(trainer_of(self)), batch)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> ScoredBatch:
        """Score (images, labels) of the test set; returns what `validation_step` does."""
        return self._score("test", batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Classify images, given alone or in any batch that `training_step` takes.

        Returns:
            ``predictions`` (B,) int64, their ``cosine`` (B,), and ``labels`` (B,) where the batch has them.
        """
        images, labels = images_and_labels(batch)
        predictions, cosine = self.head.predict(self(images))
        scored = {"predictions": predictions, "cosine": cosine}
        return scored if labels is None else {"labels": labels, **scored}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer, with the groups of `build_optimizer`, and the schedule if there is one."""
        settings = self.optimizer, self.head_lr, self.backbone_lr_factor
        extra = {"extra_losses": self.extra_losses, "distillation": self.distillation}
        optimizer = build_optimizer(self.backbone, self.head, *settings, extra)
        if self.lr_schedule is None:
            return optimizer
        config = configure_schedule(self.lr_schedule(optimizer), trainer_of(self))
        return {"optimizer": optimizer, "lr_scheduler": config}

    def configure_callbacks(self) -> list[L.Callback]:
        """What a run adds to the Trainer, except where the Trainer already has a callback of the same class."""
        return run_callbacks(self, self.trainer.callbacks)  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Take class counts and facts from the data module; skip label checks that it has already made."""
        data = datamodule_of(trainer_of(self))
        self.head.check_labels = not getattr(data, "labels_checked", False)
        if stage == "fit" and data is not None:
            check_names(data, self.head.num_classes)
            self.data_facts = plain({**facts_of(data), "seed": run_seed()})
            if (counts := fact(data, "class_counts")) is not None:
                self.head.set_class_counts(counts)
        if stage == "fit" and self.teacher is not None and self.distillation is None:
            width, facts = self.head.embedding_dim, self.data_facts
            self.distillation = Distillation(read_teacher(self.teacher), width, facts)

    def on_fit_start(self) -> None:
        """Read the backbone's initial weights, unless a checkpoint was restored, and only once; compare its images."""
        if self.init_from is not None:
            source = local_path(self.init_from, self.trainer.default_root_dir)
            found = load_weights(self.backbone, source)
            self.print(f"backbone's weights from {printable(self.init_from)}; the head is new\n{found.table()}")
            if unlike := unlike_order(source, self.data_facts):
                self.print(unlike)
            self.init_from = None
        if self.trainer.ckpt_path is None and (unlike := unlike_pretraining(self.backbone, self.data_facts)):
            self.print(unlike)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Tell the head how far training is, in fractional epochs: margins that change depend on it."""
        if self.data_facts.get("in_channels") is None:  # a data module, or loaders, that do not tell
            with suppress(DataError):  # an overridden training_step may read batches of another form
                self.data_facts |= sizes_of(images_and_labels(batch)[0])
        epoch = self.current_epoch + batch_idx / max(1, self.trainer.num_training_batches)
        self.head.set_progress(epoch=epoch, step=self.global_step, seed=run_seed(), batch=batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation split."""
        self._log_scores(split_name(trainer_of(self)))

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test set."""
        self._log_scores("test")

    def teardown(self, stage: str) -> None:
        """Check labels again: from now on others than the Trainer call the head."""
        self.head.check_labels = True

    def _score(self, split: str, batch: Any) -> ScoredBatch:
        images, labels = labelled(batch)
        scores: Any = self.scores[split]
        return scores.update_from(self.head, self(images), labels)

    def _log_scores(self, split: str) -> None:
        scores: Any = self.scores[split]
        for key, metric in scores.by_key().items():
            self.log(key, metric, prog_bar=key.endswith("/accuracy"))
        for key, metric in scores.counts().items():
            self.log(key, metric, logger=False)  # for the closing table; a chart would be flat
