"""Safe reading of checkpoints: checked for damage, then for content; no code that a file names can run."""

import ctypes
import math
import os
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arcface_pl.errors import CheckpointError

FORMAT_VERSION = 1
"""Stored in every checkpoint as ``format_version``; increased when older releases can no longer read new files."""

_FINITE = ("state_dict", "current_model_state", "optimizer_states")
_RESUMED = {
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "callbacks": dict,
}
# Lightning and jsonargparse instantiate the class that stands under one of these keys
_NAMES_CODE = ("_instantiator", "_class_path", "class_path")
_WHITE = 255  # of pixels that are not scaled to 0 to 1
_END_RECORD = 22  # bytes of a ZIP archive's last record, without its comment
# torch.load reads nothing for an entry with this bit and returns uninitialized memory, which no checksum reveals
_DOS_FOLDER = 0x10
_PAGE_OUT = 21  # madvise's advice that changes no content, neither of a file nor of other memory
LARGE = 1 << 26
"""Bytes of tensors that stay in a mapped file."""
_EARLIER = "use an earlier checkpoint"
_OURS = "use a checkpoint written by arcface_pl"


class CheckpointFile(NamedTuple):
    """A checkpoint that has been read and checked, to be passed along instead of reading the file again.

    Attributes:
        path: The file.
        content: What `read_checkpoint` returned.
    """

    path: Path
    content: dict[str, Any]


def read_checkpoint(path: str | Path | CheckpointFile, *, mapped: bool = False) -> dict[str, Any]:
    """Read a checkpoint of an `ArcFaceModule` onto the CPU.

    Args:
        path: The file, or one that was read before, whose content is returned.
        mapped: Leave tensors of 64 MiB and more in the file, of which only the parts that are used are read. Check
            those with `is_finite`, and copy what outlives the file.

    Returns:
        The checkpoint's dictionary, with ``state_dict`` and ``hyper_parameters``.

    Raises:
        CheckpointError: If the file is missing, damaged, from a newer release or another package; if a weight is NaN or
            inf; or if it holds anything but tensors and plain values, or the name of code to run.
    """
    if isinstance(path, CheckpointFile):
        return path.content
    if not isinstance(path, str | os.PathLike):
        raise CheckpointError("the checkpoint", f"it is a {type(path).__name__}", "give the path of a .ckpt file")
    path = Path(path)
    if not os.path.isfile(path):
        fault = "it is a folder" if os.path.isdir(path) else "there is no such file"
        raise CheckpointError(path, fault, "give the path of a .ckpt file")
    _check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # about formats that are refused here anyway
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a hostile file can make torch raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            path, f"it holds more than tensors and plain values, or is damaged ({reason})", "do not use it"
        ) from error
    _check_content(path, content, mapped)
    if mapped:
        _copy_small(content)
    return content


def _copy_small(content: Any) -> None:
    """Copy tensors that are not `_large` out of the file that they are mapped from."""
    for _, container in nested(content):
        if isinstance(container, dict | list):
            for key, value in container.items() if isinstance(container, dict) else enumerate(container):
                if isinstance(value, Tensor) and not _large(value):
                    container[key] = value.clone()


def release(tensor: Tensor) -> None:
    """Let the system take back the memory of a mapped tensor; its numbers are read from the file again if needed.

    Where the system cannot (it is not Linux, or older than 5.4), the memory is held until the tensor is gone.
    """
    if sys.platform != "linux":
        return
    page = os.sysconf("SC_PAGESIZE")
    start = -(-tensor.data_ptr() // page) * page
    size = (tensor.data_ptr() + tensor.numel() * tensor.element_size() - start) // page * page
    if size > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _PAGE_OUT)


def has_large(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has tensors that stay in the file if it is mapped."""
    return any(isinstance(value, Tensor) and _large(value) for _, value in nested(content))


def _large(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() >= LARGE


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor has no NaN or inf; one pass without a temporary tensor, unless a sum overflows."""
    return not tensor.is_floating_point() or math.isfinite(tensor.sum()) or bool(torch.isfinite(tensor).all())


def _check_archive(path: Path) -> None:
    """Refuse a file that is not an intact, uncompressed ZIP archive from its first byte to its last."""
    try:
        if os.path.getsize(path) == 0:
            raise CheckpointError(path, "it is empty", _EARLIER)
        if not zipfile.is_zipfile(path):
            raise CheckpointError(path, "it is damaged, or not a checkpoint", f"{_EARLIER}, or {_OURS}")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if not _fills(archive, path):
                raise CheckpointError(path, "it is damaged (there is something before or after it)", _EARLIER)
            packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
            if packed or sum(entry.file_size for entry in entries) > os.path.getsize(path):
                raise CheckpointError(path, "it would unpack to more than the file holds", "do not use it")
            if folders := [entry.filename for entry in entries if entry.external_attr & _DOS_FOLDER]:
                raise CheckpointError(path, f"it is damaged ({folders[0]} is marked as a folder)", _EARLIER)
            damaged = archive.testzip()  # torch.load does not verify the checksums
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(path, f"it cannot be read ({error.strerror or error})", "check the file") from error
    except Exception as error:  # zipfile raises a dozen types over a damaged archive
        raise CheckpointError(path, f"it is damaged ({error})", _EARLIER) from error
    if damaged is not None:
        raise CheckpointError(path, f"it is damaged ({damaged} fails its checksum)", _EARLIER)


def _fills(archive: zipfile.ZipFile, path: Path) -> bool:
    """Whether the archive is all of the file: readers search for its end and ignore what surrounds it."""
    with path.open("rb") as file:
        file.seek(-_END_RECORD - len(archive.comment), os.SEEK_END)
        at_end = file.read(4) == b"PK\5\6"
    return at_end and min((entry.header_offset for entry in archive.infolist()), default=0) == 0


def _check_content(path: Path, content: Any, mapped: bool) -> None:
    if not isinstance(content, dict):
        raise CheckpointError(path, f"it holds a {type(content).__name__}, not a checkpoint", _OURS)
    version = content.get("format_version", 0)
    if isinstance(version, bool) or not isinstance(version, int) or version > FORMAT_VERSION:
        fault = f"format_version: got {version!r}; expected at most {FORMAT_VERSION}"
        raise CheckpointError(path, fault, "install a newer arcface_pl")
    for key in ("state_dict", "hyper_parameters"):
        if not isinstance(content.get(key), dict):
            fault = f"it has no {key}" if key not in content else f"its {key} is not a dictionary"
            raise CheckpointError(path, fault, f"{_OURS}, not bare weights")
    _check_facts(path, content.get("data") or {})
    for name, value in nested(content):
        if isinstance(value, dict) and (named := [key for key in _NAMES_CODE if key in value]):
            raise CheckpointError(path, f"{name or 'it'} names code to run ({named[0]})", "do not use it")
        if not isinstance(value, Tensor):
            continue
        is_read = not (mapped and _large(value))
        if wrong := _fault_of(value, finite=is_read and name.split(".")[0] in _FINITE):
            raise CheckpointError(path, f"{name} {wrong}", _EARLIER)
    for name, value in content["state_dict"].items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(path, f"state_dict.{name} is a {type(value).__name__}, not a tensor", _OURS)


def _check_facts(path: Path, facts: Any) -> None:
    """Refuse facts about the data that have the wrong type: users of the model rely on them."""
    if not isinstance(facts, dict):
        raise CheckpointError(path, f"its data is a {type(facts).__name__}, not a dictionary", _OURS)
    names, normalization = facts.get("class_names"), facts.get("normalization")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise CheckpointError(path, "its class names are not a list of text", _OURS)
    if normalization is None:
        return
    try:
        mean, std = ([float(value) for value in part] for part in normalization)
    except (TypeError, ValueError):
        mean, std = [], []
    if not mean or len(mean) != len(std) or not all(abs(value) <= _WHITE for value in mean + std) or min(std) <= 0:
        raise CheckpointError(path, "its normalization is not a mean and a deviation per channel", _OURS)


def nested(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield everything in nested containers once and in order, with the place where it was found.

    Args:
        content: The outermost container; cycles are followed once.
    """
    waiting: list[tuple[str, Any]] = [("", content)]
    seen = set()
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield name, value
        inner: Any = value.items() if isinstance(value, Mapping) else ()
        inner = enumerate(value) if isinstance(value, list | tuple | set | frozenset) else inner
        waiting.extend((f"{name}.{key}" if name else str(key), each) for key, each in reversed([*inner]))


def _fault_of(tensor: Tensor, *, finite: bool) -> str | None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return f"is not a plain tensor ({tensor.layout}, {tensor.device})"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"announces {tensor.numel()} numbers and holds fewer"
    if finite and not is_finite(tensor):
        return "holds numbers that are not finite"
    return None


def check_fit(path: str | Path, saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse weights whose names or shapes are not exactly those of a network.

    Args:
        path: The file that they come from, for the message.
        saved: The checkpoint's ``state_dict``.
        wanted: The network's.

    Raises:
        CheckpointError: Names the first weight that is missing, unknown or of another shape.
    """
    remedy = "use the classes and sizes it was trained with"
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
    """Refuse a checkpoint that lacks what training needs besides the weights.

    Args:
        path: The file, for the message.
        content: What `read_checkpoint` returned.

    Raises:
        CheckpointError: Names what is missing.
    """
    for key, kind in _RESUMED.items():
        if not isinstance(content.get(key), kind):
            raise CheckpointError(path, f"it has no {key}: training cannot resume from it", "use another")
