"""What this package uses of Lightning and torch beyond their documented interface, each with its reason.

tests/callbacks/test_private_apis.py has a test for each, which fails by name when a release changes it. The order of
imports between rooms keeps two elsewhere: `batches_done` in ``data.base``, and `Head` overriding ``nn.Module._apply``
in ``heads.base``, which alone sees every change of dtype.
"""

import functools
import inspect
import operator
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
import torch.distributed as dist
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from arcface_pl.checkpoints.atomic import claim_folder, unused_path
from arcface_pl.data.base import batches_done as batches_done  # the same file's business, in a room below


def log_interval(trainer: Any) -> int:
    """``log_every_n_steps`` as given to the Trainer, at least 1. It is an attribute, but no documented property."""
    return trainer.log_every_n_steps or 1


def skip_fused_step(optimizer: Any, skip: Tensor) -> bool:
    """Have a fused optimizer's next step change nothing where ``skip`` is true, as for torch's gradient scaler.

    The scaler itself would wait for the device. Returns False for optimizers that have no such step.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    optimizer.grad_scale, optimizer.found_inf = None, skip.float()
    return True


def keep_out_of_ddp(module: Any, names: list[str]) -> None:
    """Have DDP neither average the gradients of the named parameters nor broadcast them. DDP has no argument for it."""
    module._ddp_params_and_buffers_to_ignore = names


def save_in_every_process(strategy: Any, save: Callable[..., None]) -> None:
    """Have ``save(strategy, checkpoint, path, ...)`` write checkpoints; every process calls it.

    Lightning calls a checkpoint plugin in the main process alone; only a strategy of another class, which users would
    have to name, could do otherwise.
    """
    strategy.save_checkpoint = partial(save, strategy)


def validates_after(trainer: Any, batch_idx: int) -> bool:
    """Whether Lightning validates after this training batch, within the epoch.

    ``val_check_batch`` is what ``val_check_interval`` amounts to, in batches; no property or hook tells it.
    """
    every = trainer.val_check_batch
    if not isinstance(every, int) or not trainer.enable_validation:
        return False
    return any((number + 1) % every == 0 for number in (batch_idx, trainer.fit_loop.total_batch_idx))


def finish_epoch(trainer: Any) -> None:
    """Have a run that resumes at an epoch's end begin the next epoch; call it in ``on_train_start``.

    With ``max_steps`` Lightning takes the epoch for an interrupted one: it ends it again, and trains an epoch less.
    """
    loop = trainer.fit_loop
    if loop.restarted_on_epoch_end:
        loop.epoch_progress.increment_completed()
        loop.reset_restart_stage()
        loop.epoch_loop.restarting = False
        loop.epoch_loop.reset_restart_stage()


def default_store() -> Any:
    """Return the key-value store of the default process group. torch has no public way to it."""
    return dist.distributed_c10d._get_default_store()


def child_processes(trainer: Any) -> list[Any]:
    """Return the processes that Lightning's launcher started, as subprocess.Popen. No hook tells when one has ended."""
    return getattr(trainer.strategy.launcher, "procs", [])


def count_averages_on_host(callback: Any) -> None:
    """Begin the count of a WeightAveraging's updates on the CPU.

    torch asks in every step whether it is 0: on a GPU, the host would wait for the answer.
    """
    callback._average_model.n_averaged = torch.tensor(0)


def chosen_version(logger: Any) -> str | int | None:
    """Return the version of a TensorBoardLogger or CSVLogger, None before it has one. Its property would choose one."""
    return logger._version


def set_version(logger: Any, version: str) -> None:
    """Set the version of a TensorBoardLogger or CSVLogger. It is a constructor argument, and fixed afterwards."""
    logger._version = version


def move_logger(logger: Any, folder: Path) -> None:
    """Have a TensorBoardLogger write into ``folder``. Its parts are constructor arguments, and fixed afterwards."""
    logger._root_dir, logger._name = str(folder.parent.parent), folder.parent.name
    set_version(logger, folder.name)


def join_folder(logger: Any, folder: Path, apart: bool = False) -> None:
    """Give a TensorBoardLogger or CSVLogger that would choose a number of its own a folder that no other run has.

    Both choose the highest number plus one and create the folder later, so that two runs may choose the same. One that
    would choose a number next to ``folder`` writes into ``folder``. A CSVLogger deletes the metrics.csv that it finds:
    one whose version was used before gets a folder inside.

    Args:
        logger: Any logger; others are left alone.
        folder: The run's folder.
        apart: metrics.csv there is another's, so that a CSVLogger, which would delete it, gets a folder inside.
    """
    if not isinstance(logger, TensorBoardLogger | CSVLogger):
        return
    if chosen_version(logger) is not None:
        used = Path(logger.log_dir)
        if isinstance(logger, CSVLogger) and logger._experiment is None and (used / "metrics.csv").exists():
            set_version(logger, os.path.relpath(unused_path(used / "csv"), logger.root_dir))
        return
    version = folder.name
    if os.path.abspath(logger.root_dir) != os.path.abspath(folder.parent):
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            return
        version = claim_folder(Path(logger.root_dir)).name
    elif apart and isinstance(logger, CSVLogger):
        version = f"{folder.name}/{unused_path(folder / 'csv').name}"
    set_version(logger, version)


def set_rates(schedule: Any, rates: list[float]) -> None:
    """Set the present rates of an LRScheduler, in its optimizer and its own record."""
    schedule._last_lr = rates
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def num_hooks(module: nn.Module) -> int:
    """Return how many hooks a module's forward and backward call; torch can register and remove, but not list them."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for kind in kinds)


def put_whole_numbers_first(cls: type) -> None:
    """Have jsonargparse try int before float for a constructor's arguments that may be either.

    ``typing`` takes Union[int, float] and Union[float, int] for the same and hands out whichever it made first. With
    float first, jsonargparse reads ``limit_train_batches: 1``, one batch, as 1.0, all of them.
    """
    hints = getattr(inspect.unwrap(cls.__init__), "__annotations__", {})  # type: ignore[misc]
    for name, hint in hints.items():
        kinds = get_args(hint)
        if int in kinds and float in kinds and kinds.index(float) < kinds.index(int):
            hints[name] = functools.reduce(operator.or_, sorted(kinds, key=lambda kind: kind is not int))
