"""What `ArcFaceModule` needs for heads that are shared among processes, sampled, or updated in the backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from arcface_pl.backbones import Backbone
from arcface_pl.heads import Head, InBackwardSGD, ShardedHead, shard_head

__all__ = ["center_position", "check_trainer", "share_head", "shared_states", "whole_states"]


def check_trainer(module: Any, trainer: Any, *, is_ddp: bool, is_averaged: bool = False) -> None:
    """Refuse settings of the Trainer that the module's head cannot live with.

    Args:
        module: An `ArcFaceModule`.
        trainer: The Trainer that is to train it.
        is_ddp: Whether the Trainer's strategy is DDP.
        is_averaged: Whether one of its callbacks averages the weights.

    Raises:
        ValueError: Names the setting of the module, what the Trainer has and what is accepted.
    """
    if is_averaged and (module.shard_head or module.update_head_in_backward):
        name = "shard_head" if module.shard_head else "update_head_in_backward"
        raise ValueError(f"{name}: cannot be had together with averaged weights, which keep a second, whole head")
    if trainer.world_size > 1:
        if module.shard_head and not is_ddp:
            name = type(trainer.strategy).__name__
            raise ValueError(f"shard_head: needs the Trainer's strategy ddp; got {name}")
        for name, used in (
            ("head_sample_rate", module.head_sample_rate < 1),
            ("update_head_in_backward", module.update_head_in_backward),
        ):
            if used and not module.shard_head:
                raise ValueError(f"{name}: on {trainer.world_size} processes it needs shard_head; got shard_head false")
    if module.head_sample_rate < 1 and not module.update_head_in_backward:
        raise ValueError(
            f"head_sample_rate: below 1 it needs update_head_in_backward, since optimisers would touch every center; "
            f"got {module.head_sample_rate}"
        )
    if module.update_head_in_backward:
        _check_update(module, trainer)


def _check_update(module: Any, trainer: Any) -> None:
    refused = "update_head_in_backward: cannot be had together with"
    scheduled = any(hasattr(callback, "going_to_accumulate_grad_batches") for callback in trainer.callbacks)
    if trainer.accumulate_grad_batches != 1 or scheduled:
        raise ValueError(
            f"{refused} gradient accumulation; got accumulate_grad_batches {trainer.accumulate_grad_batches}"
        )
    if trainer.gradient_clip_val is not None:
        raise ValueError(f"{refused} gradient clipping; got gradient_clip_val {trainer.gradient_clip_val}")
    if trainer.precision == "16-mixed":
        raise ValueError(f"{refused} the loss scaling of precision 16-mixed; take bf16-mixed or 32-true")
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = module.optimizer([parameter])
    InBackwardSGD(optimizer, parameter)
    if not isinstance(optimizer, SGD) and module.head_lr is None:
        raise ValueError(
            f"update_head_in_backward: moves the centers by SGD, for which the rate of {type(optimizer).__name__} is "
            f"no measure; set head_lr, or take SGD"
        )


def share_head(module: Any, world_size: int) -> bool:
    """Have the module's head hold, sample and update its centers as the module's settings say; once.

    Args:
        module: An `ArcFaceModule`.
        world_size: How many processes train it.

    Returns:
        Whether each process now has centers of its own, where it had all of them before.
    """
    shared = module.shard_head and world_size > 1
    if isinstance(module.head, ShardedHead) or not (
        shared or module.update_head_in_backward or module.head_sample_rate < 1
    ):
        return False
    shard_head(module.head, sample_rate=module.head_sample_rate)
    return shared


def whole_states(checkpoint: dict[str, Any], head: ShardedHead, position: int) -> None:
    """Put what the optimiser keeps for the centers of all processes in the place of this one's; all call it at once.

    Args:
        checkpoint: Of the Trainer, about to be written.
        head: The head.
        position: Of ``head.weight`` among the optimiser's parameters.
    """
    _change_states(checkpoint, position, head.weight.shape, lambda value: head.whole(value, "cpu"))


def shared_states(checkpoint: dict[str, Any], head: ShardedHead, position: int) -> None:
    """Leave of what the optimiser kept for all centers this process's part.

    Args:
        checkpoint: Of the Trainer, just read.
        head: The head.
        position: Of ``head.weight`` among the optimiser's parameters.
    """
    _change_states(
        checkpoint, position, torch.Size((head.num_classes * head.sub_centers, head.embedding_dim)), head.share
    )


def _change_states(
    checkpoint: dict[str, Any], position: int, shape: torch.Size, change: Callable[[Tensor], Tensor]
) -> None:
    for optimizer in checkpoint.get("optimizer_states", []):
        kept = optimizer["state"].get(position, {})
        changed = {
            name: change(value) if isinstance(value, Tensor) and value.shape == shape else value
            for name, value in kept.items()
        }
        # The dictionaries are the running optimiser's own
        optimizer["state"] = {**optimizer["state"], **({position: changed} if kept else {})}


def center_position(backbone: Backbone, head: Head) -> int:
    """Return where the class centers are among the optimiser's parameters, as its state counts them."""
    names = [name for name, _ in head.named_parameters()]
    return sum(1 for _ in backbone.parameters()) + names.index("weight")
