"""`ArcFaceModule`: wires backbone, head, metrics and optimiser together for the Trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from arcface_pl.backbones import Backbone
from arcface_pl.callbacks.run.compile import CompileMode, check_compiler, compile_training_steps, uncompile
from arcface_pl.callbacks.run.exact_resume import check_exact, exact_facts
from arcface_pl.callbacks.run.lean_hooks import drop_empty_hooks, restore_hooks
from arcface_pl.callbacks.run.nonfinite import FiniteGuard
from arcface_pl.callbacks.run.sharding import center_position, check_trainer, share_head, shared_states, whole_states
from arcface_pl.checkpoints.network import rebuild
from arcface_pl.checkpoints.plugin import DurableCheckpointIO
from arcface_pl.checkpoints.reading import FORMAT_VERSION, check_fit, check_resumable, read_checkpoint
from arcface_pl.checkpoints.specs import spec_of
from arcface_pl.errors import CheckpointError
from arcface_pl.heads import Head, ShardedHead
from arcface_pl.seeding import derive_seed, run_seed, seed_draws
from arcface_pl.training.optimizers import OptimizerCallable, adam, build_optimizer
from arcface_pl.training.schedules import Schedule
from arcface_pl.training.scores import ScoredModule

__all__ = ["ArcFaceModule"]

ScheduleCallable = Callable[[Optimizer, int], Schedule]

# What a model must know of the data it was trained on, to be used later without that data.
DATA_FACTS = ("dataset_name", "class_names", "held_out_class_names", "normalization", "preprocessing")


class ArcFaceModule(ScoredModule):
    """Trains a backbone and a margin head together, and keeps honest accuracy apart from the margin's.

    ``module(images)`` gives embeddings. A prediction is ``module.head(embeddings).argmax(1)``: it never sees a label.
    ``*/accuracy`` is measured that way; ``*/margin_accuracy`` leaves the margin on the true class, as the source
    document does, and is no accuracy of the network.

    Args:
        backbone: Images (B, C, H, W) to embeddings (B, D). Its sizes are filled in from the data where unset.
        head: Holds the class centers and the loss. Its sizes are filled in from backbone and data where unset.
        optimizer: Makes the optimiser from the parameters.
        lr_schedule: Makes the learning rate's schedule from the optimiser and the number of steps; unset: constant.
        head_lr: Peak learning rate of the class centers, above 0; unset: the optimiser's own.
        channels_last: Hold images and convolution weights channel by channel within a pixel, the faster layout on CPUs
            and recent GPUs.
        shard_head: Keep in each process only its share of the classes; see `arcface_pl.shard_head`.
        head_sample_rate: Share of the classes that takes part in a training step, in (0, 1]: Partial FC. Below 1 it
            needs ``update_head_in_backward``.
        update_head_in_backward: Move the class centers by SGD inside the backward pass, with the rate, momentum and
            weight decay of their parameter group, so that their gradient is never kept.
        num_threads: CPU threads of each process while training, at least 1, since gradients differ in their last bit
            between numbers of threads; unset: what torch has.
        compile: Mode of torch.compile for the backbone's training steps: "default", or "reduce-overhead" for CUDA
            graphs; unset: none. Compiling puts off the first step; measure whether it pays for your network and device.
        matmul_precision: How float32 matrix products are made while training, the head's too: "highest", or "high" and
            "medium" for TF32 and bfloat16 where the device multiplies them, which leave a cosine 3 and 2 digits; unset:
            what torch has, which is "highest". Convolutions on a GPU are in TF32 by torch's own default.

    Raises:
        ValueError: If head and backbone disagree on the embeddings' width, or a rate is out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        optimizer: OptimizerCallable = adam,
        lr_schedule: ScheduleCallable | None = None,
        head_lr: float | None = None,
        channels_last: bool = True,
        shard_head: bool = False,
        head_sample_rate: float = 1.0,
        update_head_in_backward: bool = False,
        num_threads: int | None = None,
        compile: CompileMode | None = None,
        matmul_precision: Literal["highest", "high", "medium"] | None = None,
    ) -> None:
        if backbone.embedding_dim != head.embedding_dim:
            raise ValueError(
                f"head.embedding_dim: got {head.embedding_dim}, but the backbone's embeddings have "
                f"{backbone.embedding_dim} dimensions"
            )
        if head_lr is not None and not 0.0 < head_lr < float("inf"):
            raise ValueError(f"head_lr: got {head_lr!r}, but it takes a finite number above 0")
        if not 0.0 < head_sample_rate <= 1.0:
            raise ValueError(f"head_sample_rate: got {head_sample_rate!r}, but it takes a share in (0, 1]")
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads: got {num_threads!r}, but it takes a whole number of at least 1")
        super().__init__(backbone, head, channels_last)
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.head_lr = head_lr
        self.shard_head = shard_head
        self.head_sample_rate = head_sample_rate
        self.update_head_in_backward = update_head_in_backward
        self.num_threads = num_threads
        self.compile_mode = compile
        self.matmul_precision = matmul_precision
        self._matmul_precision_before: str | None = None
        self.data_facts: dict[str, Any] = {}
        self._guard = FiniteGuard(deferred=False)
        self.example_input_array = torch.zeros(1, backbone.in_channels, backbone.image_size, backbone.image_size)
        self.save_hyperparameters(
            {"backbone": spec_of(backbone), "head": spec_of(head), "head_lr": head_lr, "channels_last": channels_last},
            logger=False,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; the one that Lightning sets forty times a step without `nn.Module`'s search for tensors."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def setup(self, stage: str) -> None:
        """Take from the data what the head needs for training and the checkpoint needs for use."""
        DurableCheckpointIO.install(self.trainer.strategy)
        if stage == "fit":
            self.check_trainer(self.trainer)
            if share_head(self, self.trainer.world_size):
                # Each process has other centers: DDP must neither average their gradients nor overwrite them
                self._ddp_params_and_buffers_to_ignore = ["head.weight"]
            self._set_up_arithmetic()
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            return
        if stage == "fit":
            facts = {name: getattr(data, name, None) for name in DATA_FACTS}
            self.data_facts = {"name": type(data).__name__, "kwargs": dict(data.hparams), "seed": run_seed(), **facts}
        if stage == "fit" and getattr(data, "class_counts", None) is not None:
            self.head.set_class_counts(data.class_counts)
        # The data module has checked every label, so that no step has to wait for the device to do it again.
        self.head.check_labels = False

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Refuse a Trainer whose settings or device do not go together with this module's.

        Args:
            trainer: The Trainer that is to train this module.

        Raises:
            ValueError: Names the module's setting, what the Trainer has and what is accepted.
        """
        callbacks = getattr(trainer, "callbacks", [])
        averaged = any(isinstance(callback, WeightAveraging) for callback in callbacks)
        check_trainer(self, trainer, is_ddp=isinstance(trainer.strategy, DDPStrategy), is_averaged=averaged)
        if self.compile_mode is not None:
            check_compiler(trainer.strategy.root_device)

    def _set_up_arithmetic(self) -> None:
        if self.num_threads is not None:  # after the launcher of processes, which has an opinion of its own
            torch.set_num_threads(self.num_threads)
        if self.matmul_precision is not None:
            if self._matmul_precision_before is None:  # else a fit that ended in an exception has left it lowered
                self._matmul_precision_before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(self.matmul_precision)

    def teardown(self, stage: str) -> None:
        """Check labels again, and compute as before: whoever calls now is not the Trainer."""
        self.head.check_labels = True
        if stage == "fit":
            restore_hooks(self.trainer)
            uncompile(self.backbone)
            if self._matmul_precision_before is not None:
                torch.set_float32_matmul_precision(self._matmul_precision_before)
                self._matmul_precision_before = None

    def on_train_start(self) -> None:
        """Watch over losses and gradients: a CPU can be asked at once, other devices would have to be waited for."""
        self._guard = FiniteGuard(deferred=self.device.type != "cpu")
        drop_empty_hooks(self.trainer)
        if self.compile_mode is not None:  # only now: TensorBoard's graph is traced from the network as it is
            compile_training_steps(self.backbone, self.compile_mode)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed what the step will draw (dropout) by where the run is, so that a resumed run draws the same."""
        seed_draws(self.device, derive_seed(run_seed(), "step", self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the head's loss; logged every ``log_every_n_steps`` so that other steps wait for nothing."""
        images, labels = batch
        epoch = self.current_epoch + batch_idx / max(1, self.trainer.num_training_batches)
        self.head.set_progress(epoch=epoch, step=self.global_step, seed=run_seed())
        loss = self.head.loss(self(images), labels)
        self._guard.see_loss(loss, self.global_step)
        if (self.global_step + 1) % self._log_interval == 0:
            self.log("train/loss", loss, prog_bar=True)
            self._guard.report()
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Let no gradient pass that is not finite."""
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        self._guard.before_step(optimizer, self.global_step, scaled)

    def on_train_epoch_end(self) -> None:
        """Say what was masked since the last logged step."""
        self._guard.report()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimiser; the class centers in a group of their own; the schedule moves every step."""
        optimizer = build_optimizer(self.backbone, self.head, self.optimizer, self.head_lr)
        if self.update_head_in_backward:
            assert isinstance(self.head, ShardedHead)
            self.head.update_in_backward(optimizer)
        if self.lr_schedule is None:
            return optimizer
        schedule = self.lr_schedule(optimizer, int(self.trainer.estimated_stepping_batches))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "learning_rate"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a later user needs of the data: its module, class names, normalisation, seed."""
        self._guard.report()
        checkpoint["format_version"] = FORMAT_VERSION
        checkpoint["data"] = self.data_facts
        checkpoint["exact"] = exact_facts(self)
        if isinstance(self.head, ShardedHead):
            whole_states(checkpoint, self.head, center_position(self.backbone, self.head))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back, unless it is another network's; where training goes on, only if it goes on exactly."""
        path = getattr(self._trainer, "ckpt_path", None) or "the checkpoint"
        self.data_facts = checkpoint.get("data", {})
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            check_resumable(path, checkpoint)
            allowed = getattr(getattr(self.trainer, "datamodule", None), "allow_inexact_resume", False)
            check_exact(checkpoint.get("exact", {}), exact_facts(self), allowed)
        if self._trainer is not None and self.trainer.precision == "64-true":
            self.double()  # Lightning would do so only after the weights were read, and have been rounded
        if isinstance(self.head, ShardedHead):
            shared_states(checkpoint, self.head, center_position(self.backbone, self.head))
        check_fit(path, checkpoint["state_dict"], self.state_dict())

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's own would import whatever class a file names
        cls,
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        *,
        backbone: Backbone | None = None,
        head: Head | None = None,
    ) -> Self:
        """Rebuild a trained module from a checkpoint, without running anything that the file names.

        Args:
            checkpoint_path: A file written by the Trainer.
            map_location: Device for the weights.
            backbone: Needed where the checkpoint's backbone is no class of this package.
            head: Needed where the checkpoint's head is no class of this package.

        Returns:
            The module in evaluation mode.

        Raises:
            CheckpointError: If the file is damaged, unsafe, or does not fit the classes.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        saved, weights = checkpoint["hyper_parameters"], checkpoint["state_dict"]
        backbone, head = rebuild(checkpoint, checkpoint_path, backbone=backbone, head=head)
        try:
            module = cls(backbone, head, head_lr=saved.get("head_lr"), channels_last=saved.get("channels_last", True))
        except (ValueError, RuntimeError, AttributeError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(checkpoint_path, reason, "use the classes and sizes it was trained with") from error
        check_fit(checkpoint_path, weights, module.state_dict())
        module.load_state_dict(weights)
        module.on_load_checkpoint(checkpoint)
        return module.to(map_location).eval()

    @property
    def _log_interval(self) -> int:
        return self.trainer.log_every_n_steps or 1  # type: ignore[attr-defined]  # set where mypy does not look
