"""Heads whose classes are sharded over processes, sampled, or updated in the backward pass."""

import inspect
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import SGD

from arcface_pl.callbacks.run.private_apis import keep_out_of_ddp, save_in_every_process
from arcface_pl.checkpoints.plugin import DurableCheckpointIO
from arcface_pl.checkpoints.reading import is_finite, nested, release
from arcface_pl.checkpoints.streamed import streams
from arcface_pl.errors import CheckpointError, SettingsError, expected
from arcface_pl.heads import Head, ShardedHead, ShardRows, shard_head
from arcface_pl.heads.in_backward import Rule, in_backward_update


def needs_sharding(module: Any) -> bool:
    """Whether the settings or the head of an `ArcFaceModule` call for `HeadSharding`."""
    asked = module.shard_head or module.update_head_in_backward or module.head_sample_rate < 1
    return asked or isinstance(module.head, ShardedHead)


class HeadSharding(L.Callback):
    """Holds, samples and updates the class centers as the settings of an `ArcFaceModule` say.

    Checkpoints hold the centers, and the optimizer's state of them, of all processes: they do not depend on the number
    of processes.
    """

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Shard the head, before a checkpoint is read and DDP looks at the parameters, or draw its centers.

        Raises:
            SettingsError: If the Trainer's settings do not go with the module's.
        """
        # Its collective calls at the end of a validation come before those of other callbacks
        trainer.callbacks.remove(self)  # type: ignore[attr-defined]
        trainer.callbacks.insert(0, self)  # type: ignore[attr-defined]
        if stage == "fit":
            check_sharding(pl_module, trainer)
        if isinstance(pl_module.head, ShardedHead):
            self._save_in_shards(trainer.strategy, pl_module.head, stage)
            return
        shared = pl_module.shard_head and trainer.world_size > 1 and isinstance(trainer.strategy, DDPStrategy)
        # In a lone process nothing moves, but sampling and the update in the backward pass need a ShardedHead.
        sampled = pl_module.update_head_in_backward or pl_module.head_sample_rate < 1
        if shared or (sampled and stage == "fit"):
            shard_head(pl_module.head, sample_rate=pl_module.head_sample_rate)
        pl_module.head.draw_centers()
        if shared:
            keep_out_of_ddp(pl_module, ["head.weight"])
            self._save_in_shards(trainer.strategy, pl_module.head, stage)

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Let ``state_dict`` gather the centers again: others than the Trainer call it from now on."""
        if isinstance(pl_module.head, ShardedHead):
            pl_module.head.state_in_shards = False

    def _save_in_shards(self, strategy: Strategy, head: ShardedHead, stage: str) -> None:
        """Have all processes take part in writing a checkpoint, and read only what they need of one."""
        if head.group.size == 1:
            return
        DurableCheckpointIO.install(strategy)
        plugin = strategy.checkpoint_io
        if isinstance(plugin, DurableCheckpointIO):
            head.state_in_shards = plugin.mapped = True
            save_in_every_process(strategy, _take_part)
        elif stage == "fit":
            rank_zero_warn(
                f"trainer.plugins: {type(plugin).__name__} is given the whole sharded head and its optimizer state, "
                "gathered in every process. To write shard by shard use none, or a subclass of "
                "arcface_pl.checkpoints.plugin.DurableCheckpointIO"
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Hand the optimizer to a head that is updated in the backward pass."""
        if pl_module.update_head_in_backward:
            pl_module.head.update_in_backward(trainer.optimizers[0], _rule(pl_module))

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Let processes have different numbers of batches to score."""
        if isinstance(pl_module.head, ShardedHead):
            pl_module.head.begin_turns()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Take part in what other processes have left to score."""
        if isinstance(pl_module.head, ShardedHead):
            pl_module.head.end_turns()

    on_test_start = on_predict_start = on_validation_start
    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Replace this rank's optimizer state of the centers by what stands for that of all ranks."""
        head = pl_module.head
        if not isinstance(head, ShardedHead) or head.group.size == 1:
            return

        def change(value: Tensor) -> Any:
            return ShardRows(head, value) if head.state_in_shards else head.whole(value, "cpu")

        _change_states(checkpoint, _center_position(pl_module.backbone, head), head.weight.shape, change)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take this rank's part of it.

        Raises:
            CheckpointError: If it is not finite: what stays in the file is checked only here.
        """
        head = pl_module.head
        if not isinstance(head, ShardedHead) or head.group.size == 1:
            return

        def change(value: Tensor) -> Tensor:
            mine = head.share(value)
            copied = mine.clone()
            release(mine)
            return copied

        if isinstance(whole := checkpoint["state_dict"].get("head.weight"), Tensor):
            release(head.share(whole))  # it was loaded already
        shape = torch.Size((head.num_classes * head.sub_centers, head.embedding_dim))
        _change_states(checkpoint, _center_position(pl_module.backbone, head), shape, change)
        states = {key: checkpoint.get(key) for key in ("optimizer_states",)}
        for name, value in (("state_dict.head.weight", head.weight.detach()), *nested(states)):
            if isinstance(value, Tensor) and not is_finite(value):
                path = trainer.ckpt_path or "the checkpoint"
                raise CheckpointError(path, f"{name} holds numbers that are not finite", "use an earlier checkpoint")


def _change_states(
    checkpoint: dict[str, Any], position: int, shape: torch.Size, change: Callable[[Tensor], Any]
) -> None:
    for optimizer in checkpoint.get("optimizer_states", []):
        kept = optimizer["state"].get(position, {})
        changed = {
            name: change(value) if isinstance(value, Tensor) and value.shape[:1] == shape[:1] else value
            for name, value in kept.items()
        }
        # A new dictionary: the old one is the running optimizer's.
        optimizer["state"] = {**optimizer["state"], **({position: changed} if kept else {})}


def _take_part(strategy: Strategy, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
    """Write a checkpoint in the main process, with the rows of all."""
    if strategy.is_global_zero:
        strategy.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)
    else:
        with streams(checkpoint):
            pass


def _center_position(backbone: nn.Module, head: Head) -> int:
    """Return the position of the class centers among the optimizer's parameters."""
    names = [name for name, _ in head.named_parameters()]
    return sum(1 for _ in backbone.parameters()) + names.index("weight")


def check_sharding(module: Any, trainer: Any) -> None:
    """Refuse settings of the Trainer that the module's settings for its head do not work with.

    Args:
        module: An `ArcFaceModule`.
        trainer: The Trainer that is to train it.

    Raises:
        SettingsError: Names the setting, its value and what is expected.
    """
    if module.shard_head or module.update_head_in_backward:
        name = "shard_head" if module.shard_head else "update_head_in_backward"
        if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):
            raise _refused(name, True, "false together with averaged weights, which keep a second, whole head")
    if trainer.world_size > 1:
        if module.shard_head and not isinstance(trainer.strategy, DDPStrategy):
            raise _refused("strategy", type(trainer.strategy).__name__, "ddp together with shard_head")
        for name, used in (
            ("head_sample_rate", module.head_sample_rate < 1),
            ("update_head_in_backward", module.update_head_in_backward),
        ):
            if used and not module.shard_head:
                needed = f"true together with {name} on {trainer.world_size} processes"
                raise _refused("shard_head", False, needed)
    if module.head_sample_rate < 1 and not module.update_head_in_backward:
        accepted = "1.0 without update_head_in_backward, since optimizers would touch every center"
        raise _refused("head_sample_rate", module.head_sample_rate, accepted)
    if module.update_head_in_backward:
        _check_update(module, trainer)


def _check_update(module: Any, trainer: Any) -> None:
    together = "together with update_head_in_backward"
    scheduled = any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks)
    if trainer.accumulate_grad_batches != 1 or scheduled:
        got = "a GradientAccumulationScheduler" if scheduled else trainer.accumulate_grad_batches
        raise _refused("accumulate_grad_batches", got, f"1 {together}")
    if trainer.gradient_clip_val is not None:
        raise _refused("gradient_clip_val", trainer.gradient_clip_val, f"null {together}")
    if trainer.precision == "16-mixed":
        raise _refused("precision", trainer.precision, f"bf16-mixed or 32-true {together}")
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = module.optimizer([parameter])
    try:
        in_backward_update(optimizer, parameter, _rule(module))
    except ValueError as error:
        raise SettingsError(f"model.{error}") from error
    if module.update_head_in_backward == "sgd" and not isinstance(optimizer, SGD) and module.head_lr is None:
        made = type(optimizer).__name__
        needed = f"a rate {together}=sgd, which moves the centers by SGD, while the optimizer is {made}"
        raise SettingsError(f"model.head_lr: not set; expected {needed}")


def _rule(module: Any) -> Rule:
    return "sgd" if module.update_head_in_backward == "sgd" else "optimizer"


def _refused(name: str, got: object, accepted: str) -> SettingsError:
    section = "trainer" if name in inspect.signature(L.Trainer).parameters else "model"
    return SettingsError(expected(f"{section}.{name}", got, accepted))
