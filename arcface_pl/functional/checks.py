"""What a batch must look like, said once, in the words a user can act on."""

import math

import torch
from torch import Tensor

_INTEGERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32})


def check_embeddings(embeddings: Tensor, weight: Tensor) -> None:
    """Refuse embeddings that are not (B, D) floating point with B >= 1 and the D of the class centers."""
    if embeddings.ndim != 2 or embeddings.shape[1] != weight.shape[1]:
        raise ValueError(
            f"embeddings must have shape (batch, {weight.shape[1]}), one row for each sample and as wide as the class "
            f"centers; got {tuple(embeddings.shape)}"
        )
    if not embeddings.is_floating_point():
        raise ValueError(f"embeddings must be floating point (float32, bfloat16, ...); got {embeddings.dtype}")
    if embeddings.device != weight.device:
        raise ValueError(
            f"embeddings must be on the device of the class centers, {weight.device}; got {embeddings.device}"
        )


def check_batch(embeddings: Tensor, labels: Tensor, num_classes: int, *, values: bool) -> Tensor:
    """Refuse what is not one class number for each sample, and return the labels as int64.

    Reading the values makes a GPU wait, so a training loop whose data was checked once passes ``values=False``.
    """
    expected = f"labels must be {embeddings.shape[0]} integers in [0, {num_classes - 1}], one for each embedding"
    if embeddings.shape[0] == 0:
        raise ValueError("embeddings must hold at least one sample; got an empty batch")
    if not isinstance(labels, Tensor):
        raise ValueError(f"{expected}, as a tensor; got {type(labels).__name__}")
    if labels.dtype not in _INTEGERS:
        raise ValueError(f"{expected}; got dtype {labels.dtype}")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"{expected}; got shape {tuple(labels.shape)}")
    if labels.device != embeddings.device:
        raise ValueError(f"{expected}, on {embeddings.device}; got them on {labels.device}")
    labels = labels.long()
    if values:
        smallest, largest = (int(bound) for bound in torch.stack(torch.aminmax(labels)).tolist())
        if smallest < 0 or largest >= num_classes:
            raise ValueError(f"{expected}; got {smallest if smallest < 0 else largest}")
    return labels


def check_number(name: str, value: object, *, low: float, high: float = math.inf, low_open: bool = False) -> None:
    """Refuse what is not a finite number in [low, high), or (low, high) where ``low_open`` is set."""
    bounds = f"{'(' if low_open else '['}{low:g}, {high:g})"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number in {bounds}; got {value!r}")
    if not math.isfinite(value) or value < low or value >= high or (low_open and value == low):
        raise ValueError(f"{name} must be a number in {bounds}; got {value!r}")


def check_count(name: str, value: object, *, low: int) -> None:
    """Refuse what is not a whole number of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}; got {value!r}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is not one of the named choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
