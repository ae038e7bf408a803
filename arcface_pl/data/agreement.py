"""Making sure that every process of a run has the same data."""

import hashlib
from collections.abc import Callable, Iterable

import torch.distributed
from torch import Tensor

from arcface_pl.errors import DataError

__all__ = ["check_alike", "fingerprint"]


def fingerprint(parts: Iterable[Iterable[Tensor]]) -> str:
    """Compute a short checksum of tensors, on the CPU and contiguous, in their order."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in (tensor for part in parts for tensor in part):
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def check_alike(load: Callable[[], str]) -> None:
    """Load on every process of the run, and stop all of them where one cannot, or got something else.

    Without other processes this is ``load()``.

    Args:
        load: Called once on each process; returns a description of what is there, for comparison.

    Raises:
        Exception: What ``load`` raised here.
        DataError: If another process failed, or has something else.
    """
    failure: Exception | None = None
    try:
        outcome = load()
    except Exception as error:  # whatever it is, the others must not wait for this process for ever
        failure, outcome = error, f"failed: {error}"
    outcomes = [outcome]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        outcomes = [""] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(outcomes, outcome)
    if failure is not None:
        raise failure
    if len(set(outcomes)) > 1:
        listed = "; ".join(f"process {rank}: {found}" for rank, found in enumerate(outcomes))
        raise DataError(f"the processes do not have the same data. {listed}")
