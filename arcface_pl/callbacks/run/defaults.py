"""The callbacks that `ArcFaceModule.configure_callbacks` adds to a Trainer."""

from collections.abc import Sequence
from typing import Any

import lightning as L

from arcface_pl.callbacks.run.arithmetic import Arithmetic
from arcface_pl.callbacks.run.checkpoint_io import DurableCheckpoints
from arcface_pl.callbacks.run.compile import CompileTraining, check_compiler
from arcface_pl.callbacks.run.exact_resume import ExactResume
from arcface_pl.callbacks.run.freezing import Freezing
from arcface_pl.callbacks.run.nonfinite import NonFiniteGuard
from arcface_pl.callbacks.run.refused import check_batch_norm, check_callbacks
from arcface_pl.callbacks.run.sharding import HeadSharding, check_sharding, needs_sharding
from arcface_pl.callbacks.run.step_seeds import StepSeeds
from arcface_pl.errors import SettingsError, expected


def run_callbacks(module: Any, present: Sequence[L.Callback]) -> list[L.Callback]:
    """Return the callbacks of a run that are not there yet.

    Lightning would replace a Trainer's callback by the module's of the same class; here the Trainer's wins, as does a
    subclass of one of these.

    Args:
        module: An `ArcFaceModule`.
        present: The Trainer's callbacks.
    """
    callbacks: list[L.Callback] = [
        DurableCheckpoints(),
        Arithmetic(module.num_threads, module.matmul_precision),
        NonFiniteGuard(),
        StepSeeds(),
        ExactResume(),
    ]
    if module.frozen_parts:
        callbacks.append(Freezing(module.frozen_parts, module.trainable_blocks, module.unfreeze_at_epoch))
    if module.compile_mode is not None:
        callbacks.append(CompileTraining(module.compile_mode))
    if needs_sharding(module):
        callbacks.append(HeadSharding())
    return [each for each in callbacks if not any(isinstance(other, type(each)) for other in present)]


def check_trainer(module: Any, trainer: L.Trainer, datamodule: Any = None) -> None:
    """Refuse, before any work, a Trainer or data that do not go with an `ArcFaceModule`'s settings.

    Raises:
        UserError: Names the setting, its value and what is expected.
    """
    check_callbacks(module, trainer)
    check_batch_norm(module, getattr(datamodule, "batch_size", None))
    if needs_sharding(module):
        check_sharding(module, trainer)
    if module.unfreeze_at_epoch is not None and trainer.world_size > 1:
        accepted = "null with several processes, which agree on the trained weights before training"
        remedy = "Train with the backbone frozen, then start a new run with --model.init_from last"
        raise SettingsError(expected("model.unfreeze_at_epoch", module.unfreeze_at_epoch, accepted, remedy))
    if module.compile_mode is not None:
        check_compiler(trainer.strategy.root_device)
