"""Heads too large for one device: classes shared among processes, sampled, or updated inside the backward pass."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer

from arcface_pl.functional.checks import check_number
from arcface_pl.functional.process_group import Group
from arcface_pl.functional.sharded_terms import Shard, sharded_own_angle, sharded_terms
from arcface_pl.functional.terms import AngularTerms, Hard, Others
from arcface_pl.heads.base import AngularHead, Head
from arcface_pl.heads.in_backward import InBackwardSGD
from arcface_pl.seeding import derive_seed

__all__ = ["ShardedHead", "shard_head"]


def shard_head(head: Head, *, sample_rate: float = 1.0, group: dist.ProcessGroup | None = None) -> "ShardedHead":
    """Keep C / world_size of a head's classes in each process of a group.

    The head itself is changed: ``head.weight`` becomes a new parameter with the centers of this process's classes, so
    make the optimiser afterwards. All processes begin from what each has at its place of the whole weight, so seed them
    alike. In a process alone nothing moves, and sampling and the update in the backward pass work as they do in many.

    Args:
        head: Any head of the family but ``LinearHead``.
        sample_rate: Share of its classes that a process takes at a step, in (0, 1]; see `ShardedHead`.
        group: Processes that share the classes; None for all there are.

    Returns:
        The same head, which now is a `ShardedHead` too.

    Raises:
        ValueError: A head without angles, fewer classes than processes, or a share of classes that is out of range or
            together with label smoothing.

    Example:
        >>> import torch
        >>> from arcface_pl import ArcFaceHead
        >>> head = shard_head(ArcFaceHead(4, 1000), sample_rate=0.1)
        >>> head.set_progress(epoch=0.0, step=0, seed=0)
        >>> head.loss(torch.ones(2, 4), torch.tensor([3, 7])).backward()
        >>> head.weight.grad.is_sparse, len(head.weight.grad.coalesce().values())
        (True, 100)
    """
    if isinstance(head, ShardedHead) or not isinstance(head, AngularHead):
        raise ValueError(f"head must be a whole one that has a cosine and a scale; got {type(head).__name__}")
    check_number("sample_rate", sample_rate, low=0, low_open=True, high=1 + 1e-12)
    if sample_rate < 1 and head.label_smoothing > 0:
        raise ValueError(
            f"sample_rate must be 1 together with label_smoothing, which spreads the target over all classes; "
            f"got {sample_rate}"
        )
    processes = Group(group)
    if head.num_classes < processes.size:
        raise ValueError(
            f"num_classes must be at least the number of processes, {processes.size}; got {head.num_classes}"
        )
    # One class that is both, so that psi, loss, state and isinstance need no go-between
    head.__class__ = type(f"Sharded{type(head).__name__}", (ShardedHead, type(head)), {})
    assert isinstance(head, ShardedHead)
    head._begin(processes, sample_rate)
    return head


class ShardedHead(AngularHead):
    r"""A head whose classes are shared among processes, each of which trains its own; made by `shard_head`.

    At each step the processes gather embeddings and labels, take their own classes for all of them, and sum three
    numbers a sample (cosine and sine to the own class, and $e^S$ of the other classes) in one all-reduce, after one
    maximum where scale > 64. The backward pass gathers the gradients of these numbers and scatters the gradient of the
    embeddings. CurricularFace, whose other terms depend on the own cosine, sums that first. Losses are those of a
    process's own samples, as without sharding; the gradient of a center is the mean over processes, as under DDP, which
    must leave it alone (``_ddp_params_and_buffers_to_ignore``). Batches may differ in length.

    With a ``sample_rate`` below 1 this is Partial FC: a training step knows the classes of the batch, and of the others
    as many as make up the share, drawn anew in each process from (seed, step, rank); see ``set_progress``. Centers that
    were not drawn have neither gradient (it is sparse) nor part in an update.

    Outside the loss in training mode everything needs all centers: they are gathered, from all processes at once, for
    each call, or once between ``gather_centers`` and ``release_centers``, when calls need no other process. A gradient
    flows through them to the embeddings only. ``state_dict`` gathers them too (all processes call it) and has the
    whole head's names and shapes, and ``load_state_dict`` takes such: checkpoints do not know how many processes there
    were.

    Reference:
        An et al., Partial FC: Training 10 Million Identities on a Single Machine (ICCV Workshops 2021). An et al.,
        Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by Partial FC (CVPR
        2022).
    """

    sample_rate: float
    group: Group

    def _begin(self, group: Group, sample_rate: float) -> None:
        self.group, self.sample_rate = group, sample_rate
        self._step_to_draw, self._seed_to_draw = 0, 0
        self._update: InBackwardSGD | None = None
        self._gathered: Tensor | None = None
        if group.size > 1:
            self.weight = nn.Parameter(self.share(self.weight.detach()).clone(), self.weight.requires_grad)

    def _classes(self, rank: int) -> range:
        """Return the classes that a process has: as even as can be."""
        size = self.group.size
        return range(self.num_classes * rank // size, self.num_classes * (rank + 1) // size)

    def _rows(self, rank: int) -> slice:
        classes = self._classes(rank)
        return slice(classes.start * self.sub_centers, classes.stop * self.sub_centers)

    def share(self, whole: Tensor) -> Tensor:
        """Return this process's rows of (C * K, ...)."""
        return whole[self._rows(self.group.rank)]

    @torch.no_grad()
    def whole(self, share: Tensor, device: torch.device | str | None = None) -> Tensor:
        """Return the rows of all processes, (C * K, ...), on ``device``; all processes call it at once.

        Args:
            share: This process's rows, of ``head.weight`` or of what an optimiser keeps for it.
            device: Where to; None for the device of ``share``.
        """
        share = share.detach()
        if self.group.size == 1:
            return share
        result = share.new_empty(self.num_classes * self.sub_centers, *share.shape[1:], device=device)
        for rank in range(self.group.size):
            rows = result[self._rows(rank)]
            part = share.contiguous() if rank == self.group.rank else torch.empty_like(rows, device=share.device)
            self.group.broadcast(part, rank)
            rows.copy_(part)
        return result

    def gather_centers(self) -> None:
        """Keep all centers here, for predictions that need no other process; all processes call it at once."""
        if self.group.size > 1:
            self._gathered = self.whole(self.weight)

    def release_centers(self) -> None:
        """Forget what `gather_centers` keeps, before the next training step."""
        self._gathered = None

    @contextlib.contextmanager
    def shapes_only(self) -> Iterator[None]:
        """Let calls need no other process but mean nothing: for whoever draws the network in one process."""
        self._gathered = self.weight.detach()[:1].expand(self.num_classes * self.sub_centers, -1)
        try:
            yield
        finally:
            self._gathered = None

    def centers(self) -> Tensor:
        """Return the centers of all classes, (C * K, D); collective unless they were gathered."""
        if self.group.size == 1:
            return self.weight
        return self.whole(self.weight) if self._gathered is None else self._gathered

    def update_in_backward(self, optimizer: Optimizer | None) -> None:
        """Have the backward pass move the centers by SGD, and keep no gradient of them; None turns it off.

        Do not add up gradients over batches, clip them or scale the loss then, and call backward once for each step.

        Args:
            optimizer: Holds ``head.weight``: see `InBackwardSGD`.

        Raises:
            ValueError: If the optimiser does not hold the centers, or asks for dampening or maximisation.
        """
        self._update = None if optimizer is None else InBackwardSGD(optimizer, self.weight)

    def set_progress(self, *, epoch: float, step: int, seed: int) -> None:
        """Choose the draw of the classes.

        Args:
            epoch: Epochs done, with the part of the running one.
            step: Optimiser steps done.
            seed: The run's seed.
        """
        super().set_progress(epoch=epoch, step=step, seed=seed)
        self._step_to_draw, self._seed_to_draw = step, seed

    def terms(self, embeddings: Tensor, labels: Tensor, hard: Hard | None) -> AngularTerms:
        """Return the angle to the own class and what the other classes add up to, over all processes."""
        if self._gathered is not None:
            return super().terms(embeddings, labels, hard)
        others = Others(self.scale_value, self.sub_centers)
        with_sum, shard = self.label_smoothing > 0, self._shard()
        return sharded_terms(embeddings, self.weight, labels, others, hard, with_sum=with_sum, shard=shard)

    def own_angle(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin of the angle to the own class, (B,) each, float64, exact near 0 and pi."""
        if self._gathered is not None or torch.is_grad_enabled():
            return super().own_angle(embeddings, labels)
        return sharded_own_angle(embeddings, self.weight, labels, self.sub_centers, self._shard())

    def _shard(self) -> Shard:
        sampled = self.training and self.sample_rate < 1
        return Shard(
            self.group,
            self._classes(self.group.rank).start,
            self.num_classes * self.sub_centers,
            self._draw_classes if sampled else None,
            self._update if self.training else None,
        )

    def _draw_classes(self, needed: Tensor) -> Tensor:
        """Return the classes of a step: those that are needed, and as many others as make up the share."""
        classes = self.weight.shape[0] // self.sub_centers
        count = max(math.ceil(self.sample_rate * classes), len(needed))
        generator = torch.Generator(self.weight.device)
        generator.manual_seed(derive_seed(self._seed_to_draw, "partial_fc", self._step_to_draw, self.group.rank))
        luck = torch.rand(classes, generator=generator, device=self.weight.device)
        luck[needed] = 2
        return luck.topk(count).indices.sort().values

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.group.size > 1:
            destination[f"{prefix}weight"] = self.whole(self.weight, "cpu")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        key = f"{prefix}weight"
        whole = state_dict.get(key)
        if whole is not None and whole.shape == (self.num_classes * self.sub_centers, self.embedding_dim):
            state_dict[key] = self.share(whole)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Name the sizes, the scale and the share in ``print(head)``."""
        classes = self._classes(self.group.rank)
        return f"{super().extra_repr()}, classes={classes.start}-{classes.stop - 1}, sample_rate={self.sample_rate}"
