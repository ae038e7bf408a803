"""Argument checks with one wording, `arcface_pl.errors.expected`."""

import math

import torch
from torch import Tensor

from arcface_pl.errors import expected

_INTEGERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32})


def check_embeddings(embeddings: Tensor, weight: Tensor) -> None:
    """Check that embeddings are (B, D) floating point, on the device and with the D of the class centers.

    Raises:
        ValueError: If they are not.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] != weight.shape[1]:
        accepted = f"(batch, {weight.shape[1]}), one row per sample, as wide as the class centers"
        raise ValueError(expected("embeddings.shape", tuple(embeddings.shape), accepted))
    if not embeddings.is_floating_point():
        raise ValueError(expected("embeddings.dtype", embeddings.dtype, "floating point (float32, bfloat16, ...)"))
    if embeddings.device != weight.device:
        accepted = f"the device of the class centers, {weight.device}"
        raise ValueError(expected("embeddings.device", str(embeddings.device), accepted))


def check_batch(embeddings: Tensor, labels: Tensor, num_classes: int, *, values: bool) -> Tensor:
    """Check that there is a class number for each embedding, and return the labels as int64.

    Args:
        embeddings: (B, D), already checked.
        labels: What to check.
        num_classes: C.
        values: Whether to read the labels' values, which makes a GPU wait: a training loop whose data was checked once
            passes False.

    Raises:
        ValueError: An empty batch, or labels of a wrong type, shape, dtype, device or value.
    """
    accepted = f"{embeddings.shape[0]} integers in [0, {num_classes - 1}], one per embedding"
    if embeddings.shape[0] == 0:
        raise ValueError(expected("embeddings.shape", tuple(embeddings.shape), "at least one sample"))
    if not isinstance(labels, Tensor):
        raise ValueError(expected("labels", type(labels).__name__, f"a tensor of {accepted}"))
    if labels.dtype not in _INTEGERS:
        raise ValueError(expected("labels.dtype", labels.dtype, f"{accepted}, of an integer dtype"))
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(expected("labels.shape", tuple(labels.shape), accepted))
    if labels.device != embeddings.device:
        raise ValueError(expected("labels.device", str(labels.device), f"that of the embeddings, {embeddings.device}"))
    labels = labels.long()
    if values:
        smallest, largest = (int(bound) for bound in torch.stack(torch.aminmax(labels)).tolist())
        if smallest < 0 or largest >= num_classes:
            raise ValueError(expected("labels", smallest if smallest < 0 else largest, accepted))
    return labels


def check_number(
    name: str,
    value: object,
    *,
    low: float,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = True,
) -> None:
    """Check that ``value`` is a finite number in [low, high), or without or with the ends that are named.

    Raises:
        ValueError: If it is not; a tensor is not a number.
    """
    is_accepted = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (low < value < high or (value == low and not low_open) or (value == high and not high_open))
    )
    if is_accepted:
        return
    bounds = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
    raise ValueError(expected(name, value, f"a number in {bounds}"))


def check_count(name: str, value: object, *, low: int) -> None:
    """Check that ``value`` is a whole number of at least ``low``.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(expected(name, value, f"a whole number of at least {low}"))


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Check that ``value`` is one of the named choices.

    Raises:
        ValueError: If it is not.
    """
    if value not in choices:
        raise ValueError(expected(name, value, f"one of {', '.join(map(repr, choices))}"))
