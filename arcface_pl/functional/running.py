"""Maxima and sums of logits over chunks of classes, and over the processes that share the classes."""

import math
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.functional.chunked_terms import Shard
from arcface_pl.functional.process_group import Group


def _of_each(group: Group, rows: Tensor) -> list[Tensor]:
    """Return the (B,) rows of each process."""
    return list(group.gather(rows, [len(rows)] * group.size).split(len(rows))) if len(rows) else [rows] * group.size


class Best(NamedTuple):
    """The largest logit of each sample: of equal ones the first, as for `torch.argmax`."""

    logit: Tensor
    cosine: Tensor
    place: Tensor

    @classmethod
    def of_none(cls, like: Tensor) -> "Best":
        """Return the largest of no logits, which is also that of NaN: class 0."""
        logit = like.new_full(like.shape[:1], -math.inf)
        return cls(logit, torch.full_like(logit, math.nan), torch.zeros_like(logit, dtype=torch.int64))

    @classmethod
    def of_chunk(cls, first: int, logits: Tensor, cosine: Tensor) -> "Best":
        """Return the largest of a chunk's logits (B, n), which has the classes from ``first`` on."""
        logit, place = logits.max(dim=1)
        return cls(logit, cosine.gather(1, place[:, None])[:, 0], place + first)

    def or_larger(self, later: "Best") -> "Best":
        """Return the larger of two, this one if they are equal."""
        better = later.logit > self.logit
        return Best(*(torch.where(better, theirs, ours) for ours, theirs in zip(self, later, strict=True)))

    def joined(self, shard: Shard | None, samples: slice) -> "Best":
        """Return the largest over all processes' classes, of some samples; collective call."""
        found = self
        if shard is not None and shard.group.size > 1:
            mine = self._replace(place=self.place + shard.first)
            found = reduce(Best.or_larger, map(Best, *(_of_each(shard.group, part) for part in mine)))
        return Best(*(part[samples] for part in found))

    def loses_to(self, labels: Tensor, logit: Tensor) -> Tensor:
        """Return whether a class that was left out would have won with this logit."""
        return (logit > self.logit) | ((logit == self.logit) & (labels < self.place))


class LogSum(NamedTuple):
    """A sum of exp(logit) of each sample, total * exp(shift)."""

    total: Tensor
    shift: Tensor

    def plus(self, logits: Tensor, largest: Tensor) -> "LogSum":
        """Add a chunk's logits (B, n), which are overwritten, and of which ``largest``, (B,), are the largest."""
        shift = torch.maximum(self.shift, largest)
        total = self.total * (self.shift - shift).to(self.total.dtype).exp()
        return LogSum(total + logits.sub_(shift[:, None]).exp_().sum(dim=1), shift)

    def log(self) -> Tensor:
        """Return the logarithm of the sum."""
        return self.total.log() + self.shift

    def summed(self, group: Group) -> "LogSum":
        """Return the sum over all processes' classes; collective call."""
        shift = group.max(self.shift.clone())
        return LogSum(group.sum(self.total * (self.shift - shift).to(self.total.dtype).exp()), shift)
