"""Which classes a process takes in a training step of Partial FC."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from arcface_pl.seeding import derive_seed


def draw_classes(
    num_classes: int, sample_rate: float, seeds: Sequence[int | str], labels: Tensor, here: Tensor
) -> Tensor:
    """Draw the classes of a step: those of the batch, and random others up to ``sample_rate``.

    Args:
        num_classes: Classes of this process.
        sample_rate: Share of them to take, in (0, 1).
        seeds: What the draw depends on, such as seed, step and rank.
        labels: (B,) numbers among the classes of this process, where ``here``.
        here: (B,) bool, the labels that are classes of this process.

    Returns:
        The classes, sorted, (max(sample_rate * num_classes, those of the batch),) int64.
    """
    count = math.ceil(sample_rate * num_classes)
    if count < len(labels):  # only then may the batch need more, and a GPU has to be waited for
        count = max(count, len(labels[here].unique()))
    generator = torch.Generator(labels.device)
    generator.manual_seed(derive_seed(*seeds))
    luck = torch.rand(num_classes, generator=generator, device=labels.device, dtype=torch.float32)
    # The class after the last one stands for those of other processes
    luck = torch.cat([luck, luck.new_zeros(1)]).index_fill_(0, torch.where(here, labels, num_classes), 2)
    return luck[:num_classes].topk(count).indices.sort().values
