"""What this package reads of any LightningDataModule, and what it does without it.

A data module of one's own needs nothing but loaders. What it does not tell is counted or measured here, before any
training; `arcface_pl/data/README.md` has the table.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console
from rich.progress import track
from torch import Tensor

from arcface_pl.errors import DataError, UserError, expected
from arcface_pl.preprocessing import in_order

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x", "input", "inputs")
LABEL_KEYS = ("label", "labels", "target", "targets", "class", "y")
LACKS = {
    "val": "no validation images: there is no best checkpoint and no threshold. Give the data module a val_dataloader",
    "test": "no test images: nothing is tested. Give the data module a test_dataloader",
}
# What a model needs to be used without its training data
FACTS = (
    "dataset_name",
    "class_names",
    "held_out_class_names",
    "normalization",
    "preprocessing",
    "in_channels",
    "image_size",
    "notices",
)
SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


def fact(data: Any, name: str, default: Any = None) -> Any:
    """Return an attribute of a data module; the default if it is missing, None or cannot be computed yet.

    A property of a user's class may fail in any way before ``setup``, or after the ``setup`` of another stage. Only a
    `UserError` is raised.
    """
    try:
        value = getattr(data, name)
    except UserError:
        raise
    except Exception:
        return default
    return default if value is None else value


def facts_of(data: Any) -> dict[str, Any]:
    """Return class, arguments and `FACTS` of a data module, for checkpoints."""
    return {"name": type(data).__name__, "kwargs": data.hparams, **{name: fact(data, name) for name in FACTS}}


def sizes_of(images: Tensor) -> dict[str, int | None]:
    """Return channels and size of images (B, C, S, S); the size is None if they are not square."""
    if images.ndim != 4:
        return {}
    channels, height, width = images.shape[1:]
    return {"in_channels": channels, "image_size": height if height == width else None}


def images_and_labels(batch: Any) -> tuple[Any, Tensor | None]:
    """Read a batch: a tuple, list, mapping or named tuple of images and labels, or images alone.

    Args:
        batch: What a loader yields. Mappings and named tuples are read by name (`IMAGE_KEYS`, `LABEL_KEYS`), others by
            position; more items are ignored. Labels may also be a list or an array of numbers.

    Returns:
        The images, uint8 ones divided by 255, and the labels on their device, or None.

    Raises:
        DataError: If the batch cannot be read.
    """
    images, labels = _parts(batch)
    if not isinstance(images, Tensor):
        raise DataError(expected("images of a batch", type(images).__name__, "a tensor (B, C, H, W)"))
    if labels is not None and not isinstance(labels, Tensor):
        try:
            labels = torch.as_tensor(labels, device=images.device)
        except (TypeError, ValueError, RuntimeError):
            raise DataError(expected("labels of a batch", labels, "class numbers from 0, one per image")) from None
    return images / 255 if images.dtype == torch.uint8 else images, labels


def in_rgb(data: Any, images: Tensor) -> Tensor:
    """Return a data module's network inputs (B, C, H, W) with their channels in RGB, to be shown."""
    return in_order(images, fact(data, "preprocessing", {}).get("channel_order", "rgb"))


def labelled(batch: Any) -> tuple[Tensor, Tensor]:
    """Return images and labels of a batch as `images_and_labels` does.

    Raises:
        DataError: If the batch cannot be read, or has no labels.
    """
    images, labels = images_and_labels(batch)
    if labels is None:
        raise DataError(expected("batch", "images alone", "images and labels"))
    return images, labels


def _parts(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, Tensor):
        return batch, None
    named = batch if isinstance(batch, Mapping) else batch._asdict() if hasattr(batch, "_asdict") else {}
    images, labels = (next((named[key] for key in keys if key in named), None) for keys in (IMAGE_KEYS, LABEL_KEYS))
    if images is not None:
        return images, labels
    if isinstance(batch, Sequence) and not isinstance(batch, str) and batch:
        return batch[0], batch[1] if len(batch) > 1 else None
    got = f"a mapping with {', '.join(map(str, named))}" if named else type(batch).__name__
    accepted = f"(images, labels), or a mapping with one of {', '.join(IMAGE_KEYS)} and one of {', '.join(LABEL_KEYS)}"
    raise DataError(expected("batch", got, accepted))


def complete(data: Any, num_classes: int | None = None) -> None:
    """Set what a data module does not tell: number and names of classes, sizes, numbers of images.

    Call it before the model is built. What the data module tells is checked as far as that costs nothing.

    Args:
        data: Any data module; the missing attributes are set on it.
        num_classes: Number of classes where it is given elsewhere; otherwise labels are counted in a pass over the
            training batches.

    Raises:
        DataError: If the class names do not fit the number of classes, or classes cannot be counted.
    """
    told = fact(data, "num_classes", num_classes)
    with suppress(TypeError):
        told = operator.index(told)
    wanted = ("in_channels", "image_size", "num_train", "batch_size")
    if told is None or any(fact(data, name) is None for name in wanted):
        with isolate_rng():  # the run's own iterations draw what they would have drawn
            loader = _loaders(data, "fit").get("train")
            if loader is not None:
                counts = _count(data, loader) if told is None else None
                told = told if counts is None else len(counts)
                _set(data, "class_counts", counts)
                for name, size in sizes_of(_first(data, "train", loader)[0]).items():
                    _set(data, name, size)
                _set(data, "num_train", _length(getattr(loader, "dataset", None)))
                _set(data, "batch_size", getattr(loader, "batch_size", None))
    _set(data, "num_classes", told)
    check_names(data, told)


def check_names(data: Any, num_classes: int | None) -> None:
    """Name the classes by their numbers if they have no names; refuse names of another number of classes.

    Raises:
        DataError: If there are more or fewer names or class counts than classes.
    """
    if num_classes is None:
        return
    _set(data, "class_names", [str(number) for number in range(num_classes)])
    for name in ("class_names", "class_counts"):
        found = fact(data, name)
        if found is not None and len(found) != num_classes:
            accepted = f"{num_classes} entries, since num_classes is {num_classes}"
            raise DataError(expected(f"number of data.{name}", len(found), accepted))


def check_loaders(data: Any, stage: str) -> bool:
    """Read the first batch of each loader of a stage, so that what is wrong shows before any training.

    Args:
        data: Any data module.
        stage: fit, validate, test or predict.

    Returns:
        Whether the data module has loaders of that stage at all.

    Raises:
        DataError: If a batch cannot be read or has labels that are not classes.
    """
    with isolate_rng():
        loaders = _loaders(data, stage)
        lacking = [LACKS[split] for split in SPLITS[stage] if split in LACKS and split not in loaders]
        data.notices = [*fact(data, "notices", ()), *lacking]
        for split, loader in loaders.items():
            labels = _first(data, split, loader)[1]
            _set(data, f"num_{split}", _length(getattr(loader, "dataset", None)))
            number = fact(data, "num_classes")
            if labels is not None and split != "predict" and isinstance(number, int):
                _check_labels(split, labels, number)
    return bool(loaders)


def _check_labels(split: str, labels: Tensor, num_classes: int | None = None) -> None:
    place = f"data: labels of {split}_dataloader"
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.ndim != 1:
        got = f"{labels.dtype} {tuple(labels.shape)}"
        raise DataError(expected(place, got, "integers (B,), the number of each image's class"))
    least, largest = map(int, labels.long().aminmax()) if len(labels) else (0, 0)
    if least < 0 or (num_classes is not None and largest >= num_classes):
        accepted = "class numbers from 0"
        if num_classes is not None:
            accepted = f"0 to {num_classes - 1}, since num_classes is {num_classes}"
        raise DataError(expected(place, least if least < 0 else largest, accepted))


def _loaders(data: Any, stage: str) -> dict[str, Any]:
    """Return the first loader of each split that the data module defines for a stage."""
    data.prepare_data()
    data.setup(stage)
    found = {}
    for split in SPLITS[stage]:
        if (loader := first_loader(data, split)) is not None:
            found[split] = loader
    return found


def first_loader(data: Any, split: str) -> Any:
    """Return the loader of a split, the first of several; None if the data module defines none."""
    if not is_overridden(f"{split}_dataloader", data):
        return None
    loaders = getattr(data, f"{split}_dataloader")()
    while isinstance(loaders, list | tuple | dict) and len(loaders):
        loaders = next(iter(loaders.values() if isinstance(loaders, dict) else loaders))
    return None if isinstance(loaders, list | tuple | dict) else loaders


def _first(data: Any, split: str, loader: Iterable[Any]) -> tuple[Any, Tensor | None]:
    place = f"data: {split}_dataloader of {type(data).__name__}"
    batch = next(iter(loader), None)
    if batch is None:
        raise DataError(expected(place, "no batch", "at least one image"))
    try:
        images, labels = images_and_labels(batch)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    if labels is None and split != "predict":
        raise DataError(expected(place, "images without labels", "batches of images and labels"))
    return images, labels


def _count(data: Any, loader: Any) -> list[int]:
    """Count the images of each class in a pass over the training batches."""
    length = _length(loader)
    remedy = f"Give {type(data).__name__} an attribute num_classes, or set --model.head.num_classes"
    if length is None:
        raise DataError(expected("data.num_classes", None, "a number: the training batches have no end", remedy))
    counts = torch.zeros(0, dtype=torch.int64)
    console = Console(stderr=True)
    batches = loader
    if console.is_terminal:  # rich's `disable` prints an empty line in old releases
        purpose = "Counting classes (num_classes of the data module saves this)"
        batches = track(loader, purpose, length, console=console, transient=True, auto_refresh=False)
    for batch in batches:
        labels = images_and_labels(batch)[1]
        if labels is None:
            raise DataError(expected("data: train_dataloader", "images without labels", "labels, too", remedy))
        _check_labels("train", labels)
        if (largest := int(labels.max())) >= 1000 + 10 * length * len(labels):
            accepted = f"class numbers from 0, not far above the number of images (about {length * len(labels):,})"
            raise DataError(expected("data: labels of train_dataloader", largest, accepted, remedy))
        found = torch.bincount(labels.long().cpu(), minlength=len(counts))
        counts = torch.nn.functional.pad(counts, (0, len(found) - len(counts))) + found
    if len(counts) < 2:
        raise DataError(expected("data: labels of train_dataloader", f"{len(counts)} class", "at least two classes"))
    return counts.tolist()


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except (TypeError, NotImplementedError):
        return None


def _set(data: Any, name: str, value: Any) -> None:
    if value is not None and fact(data, name) is None:
        with suppress(AttributeError):  # a property of the class: it is not ours to replace
            setattr(data, name, value)
