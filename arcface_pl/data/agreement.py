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

from arcface_pl.errors import DataError, printable

_LOG = logging.getLogger(__name__)


# Arguments of data modules that decide which images there are and how they are divided
CHOOSING = (
    "dataset", "data_dir", "root", "table", "path_column", "label_column", "split_column", "image_size", "resize",
    "rotations", "val_fraction", "watch_test",
)  # fmt: skip
MOST_COUNTED = 100  # classes whose images are counted in a checkpoint
MOST_NAMED = 3
OTHER_CONTENT = "data (as many images, with other content)"


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
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    allow: bool,
    own_seed: bool = False,
    trained_on: Mapping[str, Any] | None = None,
    present: Mapping[str, Any] | None = None,
) -> None:
    """Refuse to resume if what batches depend on differs from the checkpoint's.

    Args:
        saved: The data module's state in the checkpoint.
        now: Its state in this run.
        allow: Warn instead.
        own_seed: Whether the seed is the data module's, not the run's.
        trained_on: What the checkpoint holds of the data module: arguments (``kwargs``) and ``class_names``, as far as
            it is known.
        present: The same of this run.

    Raises:
        DataError: If a value differs.
    """
    names = {"data": "data", "world_size": "trainer.devices", "seed": "data.seed" if own_seed else "seed_everything"}
    found: dict[str, tuple[Any, Any]] = {}  # by what is shown
    for name, value in now.items():
        before = saved.get(name)
        # The counts tell what is other about the data, of which the mean and deviation follow
        if before == value or name == "images" or (name == "normalization" and saved.get("data") != now["data"]):
            continue
        if name == "augmentation":
            found |= _augmentation(before, value)
        elif name == "data":
            found |= _other_data(saved, now, trained_on or {}, present or {})
        else:
            found[names.get(name, f"data.{name}")] = (before, value)
    if len(found) > 1:
        found.pop(OTHER_CONTENT, None)  # of another seed or other classes
    differences = [
        f"{name}: the checkpoint has {before!r}, this run {after!r}" for name, (before, after) in found.items()
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


def _other_data(
    saved: Mapping[str, Any], now: Mapping[str, Any], trained_on: Mapping[str, Any], present: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return what is other about data with another checksum: settings, else classes, else numbers of images."""
    before, after = ({**(each.get("kwargs") or {})} for each in (trained_on, present))
    both = [name for name in CHOOSING if name in before and name in after]
    if found := {f"data.{name}": (before[name], after[name]) for name in both if str(before[name]) != str(after[name])}:
        return found
    kind = [str(each.get("data")).split()[:1] for each in (saved, now)]
    if kind[0] != kind[1]:
        return {"data": (saved.get("data"), now["data"])}
    names, was = [*(present.get("class_names") or ())], [*(trained_on.get("class_names") or ())]
    if was and names and set(was) != set(names):
        left, came = (sorted({*one} - {*other}, key=str)[:MOST_NAMED] for one, other in ((was, names), (names, was)))
        return {"classes that the other has not": (left, came)}
    counted = saved.get("images")
    counted = counted if isinstance(counted, Mapping) else {}
    parts = {part: (counted[part], each) for part, each in now["images"].items() if _alike(counted.get(part), each)}
    lists = [each for each in parts.values() if len(each[1]) == len(names)]
    whole = tuple([sum(counts) for counts in zip(*each, strict=True)] for each in zip(*lists, strict=True))
    for part, (one, two) in ({"": whole} if whole and whole[0] != whole[1] else parts).items():
        which = [f" of class {printable(name)}" for name in names] if len(names) == len(two) else [""]
        pairs = zip(which, one, two, strict=True)
        found |= {f"{part} images{name}".strip(): (old, new) for name, old, new in pairs if old != new}
    if found:
        return dict([*found.items()][:MOST_NAMED])
    fault = OTHER_CONTENT if counted == now["images"] else "data"
    return {fault: (saved.get("data"), now["data"])}


def _alike(saved: Any, now: list[int]) -> bool:
    """Return whether a checkpoint has counts of the same classes."""
    return isinstance(saved, list) and len(saved) == len(now) and all(isinstance(each, int) for each in saved)
