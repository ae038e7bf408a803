"""Bases of metrics that keep all embeddings or scores and gather them from all processes."""

import functools
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from arcface_pl.metrics.functional.validation import check, check_embeddings, check_labels


class ListMetric(Metric):
    """Base of metrics with list states; processes may hold different numbers of rows, or none."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = None

    def __init__(self, *states: str, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_rows, **kwargs})
        for name in states:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def rows(self, state: str) -> Tensor:
        """Return the rows of a list state in one tensor; (0,) before the first update."""
        kept = getattr(self, state)
        return dim_zero_cat(kept) if len(kept) else torch.zeros(0, device=self.device)

    def reported(self, values: Mapping[str, float], got: str) -> dict[str, Tensor]:
        """Return scores as tensors, after a warning that names those that are NaN and what there was to measure."""
        missing = [name for name, value in values.items() if math.isnan(value)]
        if missing:
            warnings.warn(f"{type(self).__name__}: {got} do not allow {', '.join(missing)} (NaN)", stacklevel=2)
        return {name: torch.tensor(value, device=self.device) for name, value in values.items()}


class EmbeddingMetric(ListMetric):
    """Base of metrics that compare every embedding with every other and therefore need all of them at once.

    Every process ends with the same result, over the embeddings of all processes. An image that a sampler repeats to
    give all processes the same number counts twice and makes a genuine pair with itself: use a sampler without padding.
    """

    embeddings: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("embeddings", "labels", **kwargs)

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            embeddings: (B, D), any real dtype.
            labels: (B,), any integer dtype.

        Raises:
            ValueError: If shapes do not fit each other or the batches before, or a value is NaN or infinite.
        """
        embeddings = check_embeddings("embeddings", embeddings, rows=0)
        if len(self.embeddings):
            width = self.embeddings[0].shape[1]
            check(embeddings.shape[1] == width, "embeddings", tuple(embeddings.shape), f"shape (B, {width}), as before")
        self.labels.append(check_labels("labels", labels, len(embeddings)))
        self.embeddings.append(embeddings)


def gather_rows(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """Gather tensors with different numbers of rows; a process without a batch may pass an empty one.

    torchmetrics replaces a list state without entries by an empty 1-D float32 tensor, and its own gathering hangs if
    the other processes hold another number of dimensions. Where dtypes differ, all get the one that holds both.
    """
    shapes: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(shapes, (tuple(tensor.shape), tensor.dtype), group=group)
    longest = max(shape for shape, _ in shapes)
    dtype = functools.reduce(torch.promote_types, [dtype for shape, dtype in shapes if shape[0] or not longest[0]])
    padded = torch.zeros(longest, dtype=dtype, device=tensor.device)
    if len(tensor):
        padded[: len(tensor)] = tensor.to(dtype)
    gathered = [torch.empty_like(padded) for _ in shapes]
    dist.all_gather(gathered, padded, group=group)
    return [rows[: shape[0]] for rows, (shape, _) in zip(gathered, shapes, strict=True)]
