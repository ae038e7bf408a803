"""Freezing parts of the backbone, for all of training or its first epochs."""

from typing import Any, Literal, get_args

import lightning as L
from torch import nn

from arcface_pl.backbones.blocks import BATCH_NORMS, blocks_of
from arcface_pl.errors import expected

Freeze = Literal["backbone", "batch_norm"]


class Freezing(L.Callback):
    """Freezes parts of ``module.backbone`` until an epoch begins.

    Frozen weights get no gradient, and frozen blocks run in evaluation mode: no dropout, and statistics of batch
    normalization that stay as they are. What is frozen is a function of the epoch, so that a resumed run thaws where
    the uninterrupted one does. Lightning's BaseFinetuning is not used: it adds parameter groups when it thaws, whose
    optimizer state a resumed run does not find, and its frozen batch normalization normalizes by the batch.

    Args:
        freeze: "backbone": all blocks but the last ``trainable_blocks``; "batch_norm": the statistics of batch
            normalization in the whole backbone. Or both.
        trainable_blocks: Blocks at the end of the backbone that are trained; see `arcface_pl.backbones.blocks`.
        unfreeze_at_epoch: First epoch, counted from 0, in which all of it is trained; None for never.
    """

    def __init__(
        self, freeze: list[Freeze], trainable_blocks: int | None = None, unfreeze_at_epoch: int | None = None
    ) -> None:
        self.freeze, self.trainable_blocks, self.unfreeze_at_epoch = freeze, trainable_blocks, unfreeze_at_epoch
        self._weights: list[nn.Parameter] = []
        self._modules: list[nn.Module] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find what is to be frozen and freeze it: a strategy may need to know what is trained."""
        if stage != "fit":
            return
        backbone: Any = pl_module.backbone
        blocks = blocks_of(backbone)[-self.trainable_blocks :] if self.trainable_blocks else []
        trained = nn.ModuleList(part for block in blocks for _, part in block)
        kept, kept_weights = set(trained.modules()), set(trained.parameters())
        frozen = [each for each in backbone.modules() if each not in kept] if "backbone" in self.freeze else []
        if "batch_norm" in self.freeze:
            frozen += [each for each in backbone.modules() if isinstance(each, BATCH_NORMS)]
        # What a user froze stays frozen
        self._modules = [each for each in frozen if each.training]
        if "backbone" in self.freeze:
            self._weights = [each for each in backbone.parameters() if each.requires_grad and each not in kept_weights]
        for weight in self._weights:
            weight.requires_grad_(False)
        until = f" until epoch {self.unfreeze_at_epoch}" if self.unfreeze_at_epoch is not None else ""
        count, total = (sum(each.numel() for each in some) for some in (self._weights, backbone.parameters()))
        statistics = "; statistics of batch normalization" if "batch_norm" in self.freeze else ""
        is_new = count and getattr(pl_module, "init_from", None) is None
        built = "; without model.init_from they stay as the network was built" if is_new else ""
        pl_module.print(f"frozen{until}: {count:,} of the backbone's {total:,} parameters{statistics}{built}")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Freeze or thaw: a run resumed within an epoch does not start it."""
        self._apply(trainer.current_epoch)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Freeze or thaw."""
        self._apply(trainer.current_epoch)

    def _apply(self, epoch: int) -> None:
        thawed = self.unfreeze_at_epoch is not None and epoch >= self.unfreeze_at_epoch
        for weight in self._weights:
            weight.requires_grad_(thawed)
        for module in self._modules:
            module.training = thawed


def check_freezing(module: Any) -> None:
    """Check the settings of an `ArcFaceModule` about freezing.

    Raises:
        ValueError: If a value is out of range, or a setting has no effect without another.
    """
    for part in module.frozen_parts or []:
        if part not in get_args(Freeze):
            raise ValueError(expected("freeze", part, f"{', '.join(get_args(Freeze))}, or a list of them"))
    for name, low in (("trainable_blocks", 0), ("unfreeze_at_epoch", 1)):
        value = getattr(module, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(expected(name, value, f"a whole number of at least {low}, or null"))
        if not module.frozen_parts or (name == "trainable_blocks" and value and "backbone" not in module.frozen_parts):
            raise ValueError(
                expected(name, value, "null where the backbone is not frozen", "Add --model.freeze backbone")
            )
    number = len(blocks_of(module.backbone))
    if module.trainable_blocks and module.trainable_blocks >= number:
        accepted = f"fewer than the {number} blocks of this backbone"
        raise ValueError(expected("trainable_blocks", module.trainable_blocks, accepted))
