"""`ShardedHead`: classes sharded over processes, sampled, or updated inside the backward pass."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from arcface_pl.functional import similarity
from arcface_pl.functional.checks import check_embeddings
from arcface_pl.functional.chunked_terms import Shard, sharded_target_angle
from arcface_pl.functional.loss import Reduction
from arcface_pl.functional.process_group import Group
from arcface_pl.functional.scoring import HeadScores
from arcface_pl.functional.terms import WHOLE_CELLS
from arcface_pl.heads.angular import AngularHead
from arcface_pl.heads.base import has_chunks
from arcface_pl.heads.class_sampling import draw_classes
from arcface_pl.heads.in_backward import InBackwardUpdate, Rule, in_backward_update
from arcface_pl.heads.shard_rows import ShardRows
from arcface_pl.heads.turns import Turns

CALLS = ("centers", "cosine", "forward", "forward_with_labels", "loss", "predict", "score")
"""Collective calls that a process without samples can take part in."""


def _new(base: type[AngularHead]) -> "ShardedHead":
    cls = sharded_class(base)  # type: ignore[arg-type]
    return cls.__new__(cls)


@functools.cache
def sharded_class(base: Any) -> "type[ShardedHead]":
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

    Scores and predictions are put together from those of each process's classes in the same way; ``cosine`` and logits
    have the rows of one process at a time. All of these are collective calls, which processes with different numbers of
    batches make between `begin_turns` and `end_turns`; gradients flow to the embeddings only. ``state_dict`` gathers
    the centers (collective call) and has the names and shapes of the whole head, and ``load_state_dict`` accepts the
    whole head, so checkpoints are independent of the number of processes.

    Copies and pickles hold this process's rows, for the same rank of as many processes; they do not update in the
    backward pass.

    Reference:
        An et al., Partial FC: Training 10 Million Identities on a Single Machine (ICCV Workshops 2021). An et al.,
        Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by Partial FC (CVPR
        2022).
    """

    base: ClassVar[type[AngularHead]]
    """The head's class before it was sharded."""
    sample_rate: float
    group: Group
    state_in_shards: bool
    """Whether ``state_dict`` has `ShardRows` for the weight instead of gathering it; not for `torch.save`."""

    def _begin(self, group: Group, sample_rate: float) -> None:
        self.group, self.sample_rate = group, sample_rate
        self._step_to_draw, self._seed_to_draw = 0, 0
        self.state_in_shards = False
        self._update: InBackwardUpdate | None = None
        self._meaningless: Tensor | None = None
        self._turns = Turns(group, CALLS)
        if self.postponed is not None:
            self.draw_centers(self._rows(group.rank))
        elif group.size > 1:
            self.weight = nn.Parameter(self.share(self.weight.detach()).clone(), self.weight.requires_grad)

    def __reduce__(self) -> tuple[Any, ...]:
        return _new, (self.base,), self.__dict__ | {"_update": None, "_meaningless": None}

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
        for rank, part in enumerate(self._parts(local)):
            result[self._rows(rank)] = part
        return result

    @torch.no_grad()
    def _parts(self, local: Tensor) -> Iterator[Tensor]:
        """Yield the rows of each process in turn; collective call."""
        for rank in range(self.group.size):
            rows = self._rows(rank)
            mine = rank == self.group.rank
            part = local.detach().contiguous() if mine else local.new_empty(rows.stop - rows.start, *local.shape[1:])
            self.group.broadcast(part, rank)
            yield part

    @contextlib.contextmanager
    def shapes_only(self) -> Iterator[None]:
        """Let `forward` run in one process with meaningless results, to draw the graph of a network."""
        self._meaningless = self.weight.detach()[:1].expand(self.num_classes * self.sub_centers, -1)
        try:
            yield
        finally:
            self._meaningless = None

    def centers(self) -> Tensor:
        """Return a copy of the centers of all classes, (C * K, D); collective call. Losses and scores do without."""
        if self._meaningless is not None:
            return self._meaningless
        if self.group.size == 1:
            return self.weight
        with self._turns.call("centers", self.weight):
            return self.whole(self.weight)

    def cosine(self, embeddings: Tensor) -> Tensor:
        """Compute (B, C) cosines, see `Head.cosine`; collective call, which has the rows of one process at a time."""
        if self._meaningless is not None or self.group.size == 1:
            return super().cosine(embeddings)
        check_embeddings(embeddings, self.weight)
        with self._turns.call("cosine", embeddings):
            parts = [similarity.cosine_similarity_matrix(embeddings, each) for each in self._parts(self.weight)]
        cosine = torch.cat(parts, dim=1)
        return cosine if self.sub_centers == 1 else cosine.unflatten(1, (-1, self.sub_centers)).amax(dim=2)

    def forward(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute (B, C) logits, see `Head.forward`; collective call."""
        if self._meaningless is not None:
            return super().forward(embeddings, labels)
        with self._turns.call("forward" if labels is None else "forward_with_labels", embeddings):
            return super().forward(embeddings, labels)

    def loss(self, embeddings: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Compute the loss of this process's samples, see `Head.loss`; collective call."""
        with self._turns.call("loss", embeddings):
            return super().loss(embeddings, labels, reduction)

    @torch.no_grad()
    def predict(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Predict a class for each embedding, see `Head.predict`; collective call."""
        check_embeddings(embeddings, self.weight)
        with self._turns.call("predict", embeddings):
            return super().predict(embeddings)

    @torch.no_grad()
    def score(self, embeddings: Tensor, labels: Tensor) -> HeadScores:
        """Score a labelled batch, see `Head.score`; collective call."""
        with self._turns.call("score", embeddings):
            return super().score(embeddings, labels)

    def begin_turns(self) -> None:
        """Let processes make different numbers of calls until `end_turns`: each call then asks who takes part in it.

        All must make the same calls in the same order, as far as they make any.
        """
        self._turns.begin()

    def end_turns(self) -> None:
        """Take part, without samples, in what the other processes still call; returns when all have come here."""
        with torch.no_grad():
            self._turns.end(self.weight.device, self._follow_call)

    def checked(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the labels as int64, see `Head.checked`; a process that only takes part may have none."""
        return labels if self._turns.follows else super().checked(embeddings, labels)

    def scores_in_chunks(self, embeddings: Tensor) -> bool:
        """Return whether to score shard by shard, however few classes there are, see `Head.scores_in_chunks`."""
        if self.group.size == 1:
            return embeddings.shape[0] * len(self.weight) > WHOLE_CELLS and has_chunks(self.base)
        return has_chunks(self.base)

    def _follow_call(self, call: str, dtype: torch.dtype) -> None:
        embeddings = torch.empty(0, self.embedding_dim, dtype=dtype, device=self.weight.device)
        labels = torch.empty(0, dtype=torch.int64, device=self.weight.device)
        calls: dict[str, Callable[[], object]] = {
            "centers": self.centers,
            "cosine": lambda: self.cosine(embeddings),
            "forward": lambda: self(embeddings),
            "forward_with_labels": lambda: self(embeddings, labels),
            "loss": lambda: self.loss(embeddings, labels, "none"),
            "predict": lambda: self.predict(embeddings),
            "score": lambda: self.score(embeddings, labels),
        }
        calls[call]()

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
        """Return this process's centers and which these are."""
        return self.weight, self._shard()

    def target_angle(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin of the angle to the target class, (B,) each, float64, exact near 0 and pi."""
        if self.group.size == 1:
            return super().target_angle(embeddings, labels)
        if not torch.is_grad_enabled():
            return sharded_target_angle(embeddings, self.weight, labels, self.sub_centers, self._shard())
        numbers = torch.arange(len(labels), device=labels.device)
        return similarity.target_cosine_sine(embeddings, self._centers_of(labels), numbers, self.sub_centers)

    @torch.no_grad()
    def _centers_of(self, labels: Tensor) -> Tensor:
        """Return a copy of the centers of the classes of this process's samples, (B * K, D); collective call."""
        classes, sizes = self._classes(self.group.rank), self.group.sizes(labels)
        places = self.group.gather(labels, sizes) - classes.start
        here = (places >= 0) & (places < len(classes))
        found = self.weight.unflatten(0, (-1, self.sub_centers))[places.clamp(0, len(classes) - 1)]
        found = self.group.sum(torch.where(here[:, None, None], found, 0))
        return found[self.group.local(sizes)].flatten(0, 1)

    def _shard(self) -> Shard:
        sampled = self.training and self.sample_rate < 1
        seeds = (self._seed_to_draw, "partial_fc", self._step_to_draw, self.group.rank)
        draw = partial(draw_classes, len(self.weight) // self.sub_centers, self.sample_rate, seeds)
        return Shard(
            self.group,
            self._classes(self.group.rank).start,
            self.num_classes * self.sub_centers,
            draw if sampled else None,
            self._update.begin if self.training and self._update is not None else None,
        )

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.group.size > 1:
            rows = ShardRows(self, self.weight)
            destination[f"{prefix}weight"] = rows if self.state_in_shards else self.whole(self.weight, "cpu")

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
