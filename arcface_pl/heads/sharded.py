"""Heads too large for one device: classes sharded over processes, sampled, or updated inside the backward pass."""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer

from arcface_pl.errors import expected
from arcface_pl.functional.checks import check_number
from arcface_pl.functional.chunked_terms import Shard, sharded_target_angle
from arcface_pl.functional.process_group import Group
from arcface_pl.heads.angular import AngularHead
from arcface_pl.heads.base import Head
from arcface_pl.heads.in_backward import InBackwardUpdate, Rule, in_backward_update
from arcface_pl.seeding import derive_seed


def shard_head(head: Head, *, sample_rate: float = 1.0, group: dist.ProcessGroup | None = None) -> "ShardedHead":
    """Keep C / world_size of a head's classes in each process of a group.

    Changes the head in place: ``head.weight`` becomes a new parameter with the centers of this process's classes, so
    create the optimizer afterwards. Every process keeps its rows of its own initial weight, so seed all alike. With a
    single process nothing moves; sampling and the update in the backward pass work all the same.

    Args:
        head: Any head of the family but ``LinearHead``.
        sample_rate: Fraction of its classes that a process takes in a step, in (0, 1]; see `ShardedHead`.
        group: Processes that share the classes; None for all.

    Returns:
        The same head, now also a `ShardedHead`.

    Raises:
        ValueError: A head without angles, fewer classes than processes, or a ``sample_rate`` that is out of range or
            combined with label smoothing.

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
        raise ValueError(expected("head", type(head).__name__, "an AngularHead that is not sharded yet"))
    check_number("sample_rate", sample_rate, low=0, low_open=True, high=1, high_open=False)
    if sample_rate < 1 and head.label_smoothing > 0:
        accepted = "1 together with label_smoothing, which spreads the target over all classes"
        raise ValueError(expected("sample_rate", sample_rate, accepted))
    processes = Group(group)
    if head.num_classes < processes.size:
        accepted = f"at least the number of processes, {processes.size}"
        raise ValueError(expected("num_classes", head.num_classes, accepted))
    head.__class__ = _sharded_class(type(head))  # type: ignore[arg-type]
    assert isinstance(head, ShardedHead)
    head._begin(processes, sample_rate)
    return head


def _new(base: type[AngularHead]) -> "ShardedHead":
    cls = _sharded_class(base)  # type: ignore[arg-type]
    return cls.__new__(cls)


@functools.cache
def _sharded_class(base: Any) -> "type[ShardedHead]":
    # A class that is both, so that psi, loss, state and isinstance work without delegation
    return type(f"Sharded{base.__name__}", (ShardedHead, base), {"base": base, "__module__": base.__module__})


class ShardedHead(AngularHead):
    r"""A head whose classes are sharded over processes, each of which trains its rows; made by `shard_head`.

    In each step the processes gather embeddings and labels, take their classes for all of them, and sum three numbers
    per sample (cosine and sine to the target, and $e^S$ of the non-target classes) in one all-reduce, after one maximum
    where scale > 64. The backward pass gathers the gradients of these numbers and scatters the gradient of the
    embeddings. CurricularFace, whose non-target terms depend on the target cosine, sums that first. Losses are those of
    the process's samples, as without sharding; the gradient of a center is the mean over processes, as under DDP, which
    must ignore it (``_ddp_params_and_buffers_to_ignore``). Batches may differ in length.

    With a ``sample_rate`` below 1 this is Partial FC: a training step takes the classes of the batch and, up to
    ``sample_rate``, random other ones, drawn in each process from (seed, step, rank); see ``set_progress``. Centers
    that were not drawn have no gradient (it is sparse) and are not updated.

    Everything but the loss in training mode needs all centers. They are gathered for each call, which is then
    collective, or once between ``gather_centers`` and ``release_centers``; gradients flow through them to the
    embeddings only. ``state_dict`` gathers them too (collective call) and has the names and shapes of the whole head,
    and ``load_state_dict`` accepts the whole head, so checkpoints are independent of the number of processes.

    Copies and pickles hold this process's rows, for the same rank of as many processes; they are not gathered and do
    not update in the backward pass.

    Reference:
        An et al., Partial FC: Training 10 Million Identities on a Single Machine (ICCV Workshops 2021). An et al.,
        Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by Partial FC (CVPR
        2022).
    """

    base: ClassVar[type[AngularHead]]
    """The head's class before it was sharded."""
    sample_rate: float
    group: Group

    def _begin(self, group: Group, sample_rate: float) -> None:
        self.group, self.sample_rate = group, sample_rate
        self._step_to_draw, self._seed_to_draw = 0, 0
        self._update: InBackwardUpdate | None = None
        self._gathered: Tensor | None = None
        if group.size > 1:
            self.weight = nn.Parameter(self.share(self.weight.detach()).clone(), self.weight.requires_grad)

    def __reduce__(self) -> tuple[Any, ...]:
        return _new, (self.base,), self.__dict__ | {"_update": None, "_gathered": None}

    def _classes(self, rank: int) -> range:
        """Return the classes of a process, divided as evenly as possible."""
        size = self.group.size
        return range(self.num_classes * rank // size, self.num_classes * (rank + 1) // size)

    def _rows(self, rank: int) -> slice:
        classes = self._classes(rank)
        return slice(classes.start * self.sub_centers, classes.stop * self.sub_centers)

    def share(self, whole: Tensor) -> Tensor:
        """Return this process's rows of (C * K, ...)."""
        return whole[self._rows(self.group.rank)]

    @torch.no_grad()
    def whole(self, local: Tensor, device: torch.device | str | None = None) -> Tensor:
        """Gather the rows of all processes, (C * K, ...); collective call.

        Args:
            local: This process's rows, of ``head.weight`` or of an optimizer's state for it.
            device: Of the result; None for the device of ``local``.
        """
        local = local.detach()
        if self.group.size == 1:
            return local
        result = local.new_empty(self.num_classes * self.sub_centers, *local.shape[1:], device=device)
        for rank in range(self.group.size):
            rows = result[self._rows(rank)]
            part = local.contiguous() if rank == self.group.rank else torch.empty_like(rows, device=local.device)
            self.group.broadcast(part, rank)
            rows.copy_(part)
        return result

    def gather_centers(self) -> None:
        """Keep a copy of all centers, so that predictions need no other process; collective call."""
        if self.group.size > 1:
            self._gathered = self.whole(self.weight)

    def release_centers(self) -> None:
        """Drop the copy of `gather_centers`, before the next training step."""
        self._gathered = None

    @contextlib.contextmanager
    def shapes_only(self) -> Iterator[None]:
        """Let calls run in one process with meaningless results, to draw the graph of a network."""
        self._gathered = self.weight.detach()[:1].expand(self.num_classes * self.sub_centers, -1)
        try:
            yield
        finally:
            self._gathered = None

    def centers(self) -> Tensor:
        """Return the centers of all classes, (C * K, D); collective call unless they were gathered."""
        if self.group.size == 1:
            return self.weight
        return self.whole(self.weight) if self._gathered is None else self._gathered

    def update_in_backward(self, optimizer: Optimizer | None, rule: Rule = "optimizer") -> None:
        """Update the centers inside the backward pass, without keeping their gradient; None turns it off.

        Incompatible with gradient accumulation, gradient clipping and a scaled loss; call backward once per step.

        Args:
            optimizer: Holds ``head.weight``.
            rule: "optimizer" for its own, which must be SGD, Adam or AdamW, see `InBackwardUpdate`; "sgd" for SGD,
                whatever it is.

        Raises:
            ValueError: If the optimizer does not hold the centers, or has a rule or an option that the update does not.
        """
        self._update = None if optimizer is None else in_backward_update(optimizer, self.weight, rule)

    def set_progress(self, *, epoch: float, step: int, seed: int, batch: int = 0) -> None:
        """Choose the draw of the classes, one per optimizer step, see `Head.set_progress`."""
        super().set_progress(epoch=epoch, step=step, seed=seed, batch=batch)
        self._step_to_draw, self._seed_to_draw = step, seed

    def loss_centers(self) -> tuple[Tensor, Shard | None]:
        """Return this process's centers and which these are, or all centers where they were gathered."""
        return (self.weight, self._shard()) if self._gathered is None else (self._gathered, None)

    def target_angle(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin of the angle to the target class, (B,) each, float64, exact near 0 and pi."""
        if self._gathered is not None or torch.is_grad_enabled():
            return super().target_angle(embeddings, labels)
        return sharded_target_angle(embeddings, self.weight, labels, self.sub_centers, self._shard())

    def _shard(self) -> Shard:
        sampled = self.training and self.sample_rate < 1
        return Shard(
            self.group,
            self._classes(self.group.rank).start,
            self.num_classes * self.sub_centers,
            self._draw_classes if sampled else None,
            self._update.begin if self.training and self._update is not None else None,
        )

    def _draw_classes(self, labels: Tensor, here: Tensor) -> Tensor:
        """Return the classes of a step: those that are needed, and random others up to ``sample_rate``."""
        classes = self.weight.shape[0] // self.sub_centers
        count = math.ceil(self.sample_rate * classes)
        if count < len(labels):  # only then may the batch need more, and a GPU has to be waited for
            count = max(count, len(labels[here].unique()))
        generator = torch.Generator(self.weight.device)
        generator.manual_seed(derive_seed(self._seed_to_draw, "partial_fc", self._step_to_draw, self.group.rank))
        luck = torch.rand(classes, generator=generator, device=self.weight.device, dtype=torch.float32)
        # The class after the last one stands for those of other processes
        luck = torch.cat([luck, luck.new_zeros(1)]).index_fill_(0, torch.where(here, labels, classes), 2)
        return luck[:classes].topk(count).indices.sort().values

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
        """Name the sizes, the scale and this process's classes in ``print(head)``."""
        classes = self._classes(self.group.rank)
        return f"{super().extra_repr()}, classes={classes.start}-{classes.stop - 1}, sample_rate={self.sample_rate}"
