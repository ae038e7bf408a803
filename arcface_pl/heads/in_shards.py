"""Heads too large for one device: `shard_head` makes any head a `ShardedHead`."""

from torch import distributed as dist

from arcface_pl.errors import expected
from arcface_pl.functional.checks import check_number
from arcface_pl.functional.process_group import Group
from arcface_pl.heads.angular import AngularHead
from arcface_pl.heads.base import Head
from arcface_pl.heads.sharded import ShardedHead, sharded_class


def shard_head(head: Head, *, sample_rate: float = 1.0, group: dist.ProcessGroup | None = None) -> ShardedHead:
    """Keep C / world_size of a head's classes in each process of a group.

    Changes the head in place: ``head.weight`` becomes a new parameter with the centers of this process's classes, so
    create the optimizer afterwards. Every process keeps its rows of its own initial weight, so seed all alike. Build
    the head in `deferred_centers`, and no process ever has more than its rows. With a single process nothing moves;
    sampling and the update in the backward pass work all the same.

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
    head.__class__ = sharded_class(type(head))  # type: ignore[arg-type]
    assert isinstance(head, ShardedHead)
    head._begin(processes, sample_rate)
    return head
