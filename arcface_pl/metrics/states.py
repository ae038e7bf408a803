"""What the metrics over whole sets of embeddings share: they keep everything, and gather it from all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

from arcface_pl.metrics.functional.validation import check_labels

__all__ = ["EmbeddingMetric", "gather_rows"]


class EmbeddingMetric(Metric):
    """Base of metrics that compare every embedding with every other, and so need them all at once.

    Every process ends with the same result, over the embeddings of all of them. An image that a sampler repeats to make
    all processes equally long counts twice, and makes a genuine pair with itself: use a sampler that does not pad.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None

    embeddings: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_rows, **kwargs})
        self.add_state("embeddings", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            embeddings: (B, D), any real dtype.
            labels: Class of each, (B,), any integer dtype.
        """
        if embeddings.ndim != 2:
            raise ValueError(f"embeddings must have shape (B, D), got {tuple(embeddings.shape)}")
        self.labels.append(check_labels("labels", labels, len(embeddings)))
        self.embeddings.append(embeddings.detach())


def gather_rows(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """Gather tensors that differ in their number of rows; a process that saw no batch may bring an empty one.

    torchmetrics stands in for a list state without entries by an empty 1-D float32 tensor, and its own gathering then
    waits for ever if the others hold something of another shape.
    """
    shapes: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(shapes, (tuple(tensor.shape), tensor.dtype), group=group)
    longest, dtype = max(shapes, key=lambda shape: shape[0][0])
    padded = torch.zeros(longest, dtype=dtype, device=tensor.device)
    if len(tensor):
        padded[: len(tensor)] = tensor
    gathered = [torch.empty_like(padded) for _ in shapes]
    dist.all_gather(gathered, padded, group=group)
    return [rows[: shape[0]] for rows, (shape, _) in zip(gathered, shapes, strict=True)]
