"""Reading a checkpoint: checked for damage first, then for what it holds, and never able to run code."""

import math
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arcface_pl.checkpoints.atomic import digest_fault
from arcface_pl.errors import CheckpointError

__all__ = ["FORMAT_VERSION", "check_fit", "check_resumable", "read_checkpoint"]

FORMAT_VERSION = 1
"""Written into every checkpoint as ``format_version``; grows when an older release could not read it any more."""

_FINITE = ("state_dict", "current_model_state", "optimizer_states")
_RESUMED = {
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "callbacks": dict,
}
# With these stock Lightning and jsonargparse make whatever class they are told to
_NAMES_CODE = ("_instantiator", "_class_path", "class_path")
_END_RECORD = 22  # bytes of the last record of a ZIP archive, without its comment
# Of an entry with this bit torch.load reads nothing and hands out the memory as it found it, which no checksum shows
_DOS_FOLDER = 0x10
_EARLIER = "use an earlier checkpoint"
_OURS = "give a checkpoint written by arcface_pl"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that `ArcFaceModule` was saved in, onto the CPU.

    Args:
        path: The file.

    Returns:
        The checkpoint's dictionary, with ``state_dict`` and ``hyper_parameters``.

    Raises:
        CheckpointError: If the file is missing, damaged, of a newer release, holds weights that are no finite numbers,
            anything but plain values and tensors, or the name of code to run, or is not one of this package's.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise CheckpointError(path, "it is a folder", "give the path of a .ckpt file")
    if not os.path.isfile(path):
        raise CheckpointError(path, "there is no such file", "give the path of a .ckpt file")
    _check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # torch remarks on formats that are refused here in any case
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a hostile file brings torch to raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            path, f"it holds more than tensors and plain values, or is damaged ({reason})", "do not use it"
        ) from error
    _check_content(path, content)
    return content


def _check_archive(path: Path) -> None:
    """Refuse a file that is not, to the bit, the archive that it was written as."""
    try:
        if fault := digest_fault(path):
            raise CheckpointError(path, f"it is damaged ({fault})", _EARLIER)
        if os.path.getsize(path) == 0:
            raise CheckpointError(path, "it is empty", _EARLIER)
        if not zipfile.is_zipfile(path):
            raise CheckpointError(path, "it is damaged, or no checkpoint", f"{_EARLIER}, or {_OURS}")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if not _fills(archive, path):
                raise CheckpointError(path, "it is damaged (something stands before or after it)", _EARLIER)
            packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
            if packed or sum(entry.file_size for entry in entries) > os.path.getsize(path):
                raise CheckpointError(path, "it would unpack to more than the file holds", "do not use it")
            if folders := [entry.filename for entry in entries if entry.external_attr & _DOS_FOLDER]:
                raise CheckpointError(path, f"it is damaged ({folders[0]} is marked as a folder)", _EARLIER)
            # Without a digest, as torch.save writes: torch.load does not look at the archive's own checksums
            damaged = archive.testzip()
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(path, f"it cannot be read ({error.strerror or error})", "see to the file") from error
    except Exception as error:  # zipfile raises a dozen kinds over a damaged archive
        raise CheckpointError(path, f"it is damaged ({error})", _EARLIER) from error
    if damaged is not None:
        raise CheckpointError(path, f"it is damaged ({damaged} fails its checksum)", _EARLIER)


def _fills(archive: zipfile.ZipFile, path: Path) -> bool:
    """Whether an archive is all that a file holds: readers look for its end, and pass over what stands around it."""
    with path.open("rb") as file:
        file.seek(-_END_RECORD - len(archive.comment), os.SEEK_END)
        at_end = file.read(4) == b"PK\5\6"
    return at_end and min((entry.header_offset for entry in archive.infolist()), default=0) == 0


def _check_content(path: Path, content: Any) -> None:
    if not isinstance(content, dict):
        raise CheckpointError(path, f"it holds a {type(content).__name__}, not a checkpoint", _OURS)
    version = content.get("format_version", 0)
    if isinstance(version, bool) or not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            path,
            f"its format_version is {version!r}, and this release reads up to {FORMAT_VERSION}",
            "install a newer arcface_pl",
        )
    for key in ("state_dict", "hyper_parameters"):
        if not isinstance(content.get(key), dict):
            fault = f"has no {key}" if key not in content else f"has a {key} that is no dictionary"
            raise CheckpointError(path, f"it {fault}", f"{_OURS}, not bare weights")
    _check_facts(path, content.get("data") or {})
    for name, value in _walk(content):
        if isinstance(value, dict) and (named := [key for key in _NAMES_CODE if key in value]):
            raise CheckpointError(path, f"{name or 'it'} names code to run ({named[0]})", "do not use it")
        if isinstance(value, Tensor) and (wrong := _fault_of(value, finite=name.split(".")[0] in _FINITE)):
            raise CheckpointError(path, f"{name} {wrong}", _EARLIER)
    for name, value in content["state_dict"].items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(path, f"state_dict.{name} is a {type(value).__name__}, not a tensor", _OURS)


def _check_facts(path: Path, facts: Any) -> None:
    """Refuse what a checkpoint says of the data where it is no such thing: users of a model rely on it."""
    if not isinstance(facts, dict):
        raise CheckpointError(path, f"its data is a {type(facts).__name__}, not a dictionary", _OURS)
    names, normalization = facts.get("class_names"), facts.get("normalization")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise CheckpointError(path, "its class names are no list of text", _OURS)
    if normalization is None:
        return
    try:
        mean, std = ([float(value) for value in part] for part in normalization)
    except (TypeError, ValueError):
        mean, std = [], []
    if not mean or len(mean) != len(std) or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise CheckpointError(path, "its normalization is no mean and deviation for each channel", _OURS)


def _walk(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Go through everything in nested containers once, whatever refers to what, with the place where it was met."""
    waiting: list[tuple[str, Any]] = [("", content)]
    seen = set()
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield name, value
        if isinstance(value, Mapping):
            waiting.extend((f"{name}.{key}" if name else str(key), each) for key, each in value.items())
        elif isinstance(value, list | tuple | set | frozenset):
            waiting.extend((f"{name}.{place}", each) for place, each in enumerate(value))


def _fault_of(tensor: Tensor, *, finite: bool) -> str | None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return f"is no plain tensor ({tensor.layout}, {tensor.device})"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"announces {tensor.numel()} numbers and holds fewer"
    if finite and tensor.is_floating_point() and not torch.isfinite(tensor).all():
        return "holds numbers that are not finite"
    return None


def check_fit(path: str | Path, saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not exactly those that a network has room for.

    Args:
        path: The file that they come from, for the message.
        saved: The checkpoint's ``state_dict``.
        wanted: The network's own, of which only names and shapes matter.

    Raises:
        CheckpointError: Names the first weight that is missing, too many, or of another shape.
    """
    remedy = "give the classes and sizes it was trained with"
    for name in wanted:
        if name not in saved:
            raise CheckpointError(path, f"it has no {name}, which the network needs", remedy)
    for name, tensor in saved.items():
        if name not in wanted:
            raise CheckpointError(path, f"it has {name}, which the network does not", remedy)
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)}, and in the network {tuple(wanted[name].shape)}"
            raise CheckpointError(path, f"{name} has the shape {shapes}", remedy)


def check_resumable(path: str | Path, content: Mapping[str, Any]) -> None:
    """Refuse to go on training from a checkpoint without what training needs besides the weights.

    Args:
        path: The file, for the message.
        content: What `read_checkpoint` returned.

    Raises:
        CheckpointError: Names what is missing.
    """
    for key, kind in _RESUMED.items():
        if not isinstance(content.get(key), kind):
            raise CheckpointError(path, f"it has no {key}: training cannot go on from it", "resume from another")
