"""Settings to blame where memory cannot hold what was asked for."""

import math
import re
from collections.abc import Mapping, Sequence
from traceback import walk_tb
from types import FrameType
from typing import Any

import torch
from jsonargparse import Namespace

from arcface_pl.cli.layers import walk
from arcface_pl.errors import SettingsError, expected

_SAID = re.compile(
    "can't allocate memory|not enough memory|out of memory|Storage size calculation overflowed|multiplication overflow"
    "|Overflow when unpacking|too large to convert|ALLOC_FAILED|Unable to allocate|invalid buffer size"
)
_ASKED = re.compile(r"tried to allocate ([0-9.]+ (?:bytes|[KMGT]iB))|Unable to allocate ([0-9.]+ [KMGTPE]iB)", re.I)


_LOWERED = {"images": "IMAGE", "inputs": "INPUT", "max_batch": "--max_batch"}
"""Arguments of commands that use a trained model, and their names: what takes memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator raised this, or what computes a size for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OverflowError | TypeError | ValueError) and bool(_SAID.search(str(error)))


def largest_of(arguments: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> str:
    """Return the name of the whole number that is farthest above its default, or the largest; "" without any.

    Args:
        arguments: Values by name.
        defaults: Those that have one.
    """

    def times(name: str) -> float:
        default = (defaults or {}).get(name)
        return arguments[name] / default if isinstance(default, int) and default > 0 else arguments[name]

    numbers = [name for name, value in arguments.items() if isinstance(value, int) and not isinstance(value, bool)]
    return max(numbers, key=times, default="")


def too_large(name: str, value: object, error: BaseException, others: Mapping[str, Any] | None = None) -> str:
    """Word that memory cannot hold what a setting asks for.

    Args:
        name: Full name of the setting.
        value: Its value.
        error: What the allocator raised.
        others: Further settings by full name that lower what is needed, too.
    """
    less = " or ".join(f"{each} ({value})" for each, value in (others or {}).items())
    return expected(
        name, value, f"what fits in memory{_size_asked(error)}", f"Lower it, or {less}" if less else "Lower it"
    )


def too_large_in_run(cli: Any, error: BaseException, rooms: list[str]) -> str:
    """Word that a run does not fit in memory: name the size of a batch, or of the network for its optimizer.

    Args:
        cli: The `ArcFaceCLI`.
        error: What the allocator raised.
        rooms: Modules of its traceback, outermost first.
    """
    sizes = {
        key: value
        for role in ("backbone", "head")
        for key, value in walk(cli.config.get("model") or Namespace(), Namespace, "model")
        if key.startswith(f"model.{role}.") and isinstance(value, int) and not isinstance(value, bool)
    }
    network = largest_of(sizes)
    if network and rooms[-1].startswith(("torch.optim", "arcface_pl.heads.centers")):
        return too_large(network, sizes[network], error)
    data = cli.datamodule
    loops = [each.rpartition(".")[2] for each in rooms if each.startswith("lightning.pytorch.loops.")]
    if not loops and getattr(data, "image_size", None):
        return too_large("data.image_size", data.image_size, error)  # while its images are loaded
    evaluates = {"evaluation_loop", "prediction_loop"} & set(loops) and hasattr(data, "eval_batch_size")
    name = "eval_batch_size" if evaluates else "batch_size"
    value = getattr(data, name, None)
    return too_large(f"data.{name}", value, error, {network: sizes[network]} if network else None)


def check_tool_memory(error: Exception) -> None:
    """Name what was too large for a command that uses a trained model; return where memory is not the trouble.

    Args:
        error: What the command raised, perhaps over what an allocator raised.

    Raises:
        SettingsError: Names the argument to lower: a batch, pictures, a gallery, else the model.
    """
    raised: BaseException | None = error
    seen: list[BaseException] = []  # what a constructor's error was made of is raised again, with that error as context
    while raised is not None and not is_out_of_memory(raised):
        seen.append(raised)
        raised = raised.__cause__ or raised.__context__
        if raised in seen:
            return
    if raised is None:
        return
    frames = [frame for each in (error, raised) for frame, _ in walk_tb(each.__traceback__)]
    raise SettingsError(_too_large_in_tool(frames, raised)) from error


def _too_large_in_tool(frames: Sequence[FrameType], error: BaseException) -> str:
    does = {frame.f_code.co_name for frame in frames}
    given = next((found for frame in frames if (found := _local(frame, "given", "options")) is not None), None)
    data = next((found for frame in frames if hasattr(found := _local(frame, "data"), "eval_batch_size")), None)
    in_memory = f"that fit in memory{_size_asked(error)}"
    if not does & {"open_model", "find_model", "read_model"}:
        if does & {"load_gallery", "editing_gallery"}:
            return expected("--gallery", getattr(given, "gallery", None), f"names {in_memory}", "Use a smaller gallery")
        if data is not None and does & {"setup", "prepare_data"}:
            return expected("data", type(data).__name__, f"images {in_memory}", "Use fewer")
        if data is not None:
            return too_large("data.eval_batch_size", data.eval_batch_size, error)
        for name, option in _LOWERED.items():
            value = getattr(given, name, None)
            option = "--images" if hasattr(given, "format") else option  # of export
            if isinstance(value, int):
                return too_large(option, value, error)
            if value:
                return expected(option, " ".join(map(str, value)), f"pictures {in_memory}", "Give fewer at a time")
    model = getattr(given, "model", None) or getattr(given, "checkpoint", None)
    return expected("MODEL", model, f"weights {in_memory}", "End other programs, or use a smaller model")


def _local(frame: FrameType, *names: str) -> Any:
    """Return a variable of a function that is on its way out: what it worked on."""
    return next((frame.f_locals[name] for name in names if name in frame.f_locals), None)


def _size_asked(error: BaseException) -> str:
    asked = _ASKED.search(str(error))
    return f", not {_readable(next(filter(None, asked.groups())))}" if asked else ""


def _readable(size: str) -> str:
    """Return a size, such as ``12544000000000000 bytes``, in a unit of at most four digits."""
    number, unit = size.split()
    if unit != "bytes":
        return size
    power = min(int(math.log(max(float(number), 1), 1024)), 5)
    return f"{float(number) / 1024**power:,.4g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')[power]}"
