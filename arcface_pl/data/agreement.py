"""Check that all processes of a run, and a resumed run, have the same data."""

import ast
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch.distributed
from torch import Tensor

from arcface_pl.errors import DataError

_LOG = logging.getLogger(__name__)


def fingerprint(parts: Iterable[Iterable[Tensor]]) -> str:
    """Compute a short checksum of contiguous CPU tensors, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in (tensor for part in parts for tensor in part):
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def check_alike(load: Callable[[], str]) -> None:
    """Load on every process, and fail on all of them if one fails or has other data.

    Args:
        load: Called once per process; returns a description of the data, for comparison.

    Raises:
        Exception: Whatever ``load`` raised in this process.
        DataError: If another process failed or has other data.
    """
    failure: Exception | None = None
    try:
        outcome = load()
    except Exception as error:  # whatever it is: the other processes must not wait forever
        failure, outcome = error, f"failed: {error}"
    outcomes = [outcome]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        outcomes = [""] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(outcomes, outcome)
    if failure is not None:
        raise failure
    if len(set(outcomes)) > 1:
        listed = "; ".join(f"process {rank}: {found}" for rank, found in enumerate(outcomes))
        raise DataError(
            f"the processes do not have the same data. {listed}. Give all of them the same files and data.seed"
        )


def check_batches_alike(
    saved: Mapping[str, Any], now: Mapping[str, Any], *, allow: bool, own_seed: bool = False
) -> None:
    """Refuse to resume if what batches depend on differs from the checkpoint's.

    Args:
        saved: The data module's state in the checkpoint.
        now: Its state in this run.
        allow: Warn instead.
        own_seed: Whether the seed is the data module's, not the run's.

    Raises:
        DataError: If a value differs.
    """
    names = {"data": "data", "world_size": "trainer.devices", "seed": "data.seed" if own_seed else "seed_everything"}
    found = {
        setting: values
        for name, value in now.items()
        if saved.get(name) != value
        for setting, values in (
            _augmentation(saved.get(name), value)
            if name == "augmentation"
            else {names.get(name, f"data.{name}"): (saved.get(name), value)}
        ).items()
    }
    differences = [
        f"{name}: the checkpoint has {before!r}, this run {present!r}" for name, (before, present) in found.items()
    ]
    if not differences:
        return
    message = f"the run cannot be resumed exactly. {'; '.join(differences)}"
    if not allow:
        raise DataError(f"{message}. Restore the checkpoint's values, or pass --allow_inexact_resume true")
    _LOG.warning("%s. The next batches differ from those of the uninterrupted run.", message)


def _augmentation(saved: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two augmentations differ, with both values, from the text that checkpoints hold."""
    before, present = ({} if each is None else _fields(str(each)) for each in (saved, now))
    if before and present:
        names = sorted(before.keys() | present.keys())
        differing = {f"data.{name}": (before.get(name), present.get(name)) for name in names}
        return {name: values for name, values in differing.items() if values[0] != values[1]}
    own = any(not fields and text not in (None, "None") for fields, text in ((before, saved), (present, now)))
    return {"data.transform" if own else "data.augment": (saved, now)}


def _fields(text: str) -> dict[str, Any]:
    """Return the settings in the text of a built-in augmentation, such as ``Augmentation(shift=2.0)``; else none."""
    form = re.fullmatch(r"\w*Augmentation\((.+)\)", text)
    pairs = re.findall(r"(\w+)=([\w.+-]+)", form[1]) if form else []
    with suppress(ValueError, SyntaxError):  # the text of a damaged file
        return {name: ast.literal_eval(value) for name, value in pairs}
    return {}
