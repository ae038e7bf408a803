"""Reading a checkpoint: checked for damage first, and never able to run code."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from arcface_pl.durable import digest_fault
from arcface_pl.errors import UserError

__all__ = ["CheckpointError", "read_checkpoint"]

REQUIRED_KEYS = ("state_dict", "hyper_parameters")


class CheckpointError(UserError):
    """A checkpoint that cannot be used: names the file, what is wrong with it and what to do."""

    def __init__(self, path: str | Path, fault: str, remedy: str) -> None:
        super().__init__(f"{path}: {fault}; {remedy}")


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint that `ArcFaceModule` was saved in.

    Args:
        path: The file.
        map_location: Device that the tensors go to.

    Returns:
        The checkpoint's dictionary, with ``state_dict`` and ``hyper_parameters``.

    Raises:
        CheckpointError: If the file is missing, damaged, holds anything but plain values and tensors, or is not one of
            this package's checkpoints.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(path, "there is no such file", "give the path of a .ckpt file")
    try:
        if fault := digest_fault(path):
            raise CheckpointError(path, f"it is damaged ({fault})", "use an earlier checkpoint")
        with zipfile.ZipFile(path) as archive:
            # torch.load does not look at the checksums: a flipped bit would become a weight.
            damaged = archive.testzip()
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(path, f"it is damaged or no checkpoint ({error})", "use an earlier checkpoint") from error
    if damaged is not None:
        raise CheckpointError(path, f"it is damaged ({damaged} fails its checksum)", "use an earlier checkpoint")
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, KeyError, EOFError, ValueError, AttributeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            path, f"it holds more than tensors and plain values, or is damaged ({reason})", "do not use it"
        ) from error
    missing = [key for key in REQUIRED_KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise CheckpointError(
            path, f"it has no {' and no '.join(missing)}", "give a checkpoint written by arcface_pl, not bare weights"
        )
    return content
