"""Losses that are added to the head's: those of pytorch-metric-learning, or any that take embeddings and labels."""

import inspect
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arcface_pl.checkpoints.specs import PLAIN
from arcface_pl.errors import expected
from arcface_pl.functional.checks import check_number
from arcface_pl.functional.precision import full_precision
from arcface_pl.functional.process_group import Group
from arcface_pl.seeding import seed_draws

_GATHERING = ("DistributedLossWrapper", "DistributedMinerWrapper")
_HALVES = (torch.bfloat16, torch.float16)


@dataclass
class ExtraLoss:
    """A loss that is added to the head's.

    Args:
        loss: Called with embeddings (B, D) and labels (B,), and with what the miner returned where there is one;
            returns a scalar. Any loss of pytorch-metric-learning (on the command line its name alone will do), or a
            class or function of that form.
        weight: Factor of the loss, above 0.
        miner: Called with embeddings and labels; returns the pairs or triplets to use. Any miner of
            pytorch-metric-learning, or a class or function of that form. null for those that the loss chooses.
    """

    loss: Callable[..., Any]
    weight: float = 1.0
    miner: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for name, each in (("loss", self.loss), ("miner", self.miner)):
            if isinstance(each, type) or not (callable(each) or (each is None and name == "miner")):
                got = each.__name__ if isinstance(each, type) else each
                raise ValueError(expected(name, got, "an object that can be called, or a function"))
            if type(each).__name__ in _GATHERING:
                accepted = f"the {name} that it wraps: with several processes embeddings are gathered already"
                raise ValueError(expected(name, type(each).__name__, accepted))
        check_number("weight", self.weight, low=0, low_open=True)


class ExtraLosses(nn.Module):
    """Computes extra losses, in float32 at least whatever the precision of the run.

    With several processes all embeddings are gathered first: each process computes the losses of the whole batch, with
    pairs across processes. Gradients are those of the whole batch once they are averaged over processes, as by DDP.

    Parameters and buffers stay in float32 under ``to(torch.bfloat16)``. numpy's and Python's generators are seeded from
    torch's for each call: what a loss or miner draws is a function of the run's seed and the step, in each process the
    same.

    Args:
        losses: The losses, or a single one.
        embedding_dim: D.
        num_classes: C.

    Raises:
        ValueError: If one cannot be called with embeddings and labels, or does not return a scalar.
    """

    def __init__(self, losses: Sequence[ExtraLoss] | ExtraLoss, embedding_dim: int, num_classes: int) -> None:
        super().__init__()
        self.entries: dict[str, ExtraLoss] = {}
        seen: Counter[str] = Counter()
        for entry in [losses] if isinstance(losses, ExtraLoss) else losses:
            name = getattr(entry.loss, "__name__", type(entry.loss).__name__)
            seen[name] += 1
            name = name if seen[name] == 1 else f"{name}_{seen[name]}"
            _try(name, entry, embedding_dim, num_classes)
            self.entries[name] = entry
        parts = {"loss": "losses", "miner": "miners"}
        for part, place in parts.items():
            found = {name: getattr(entry, part) for name, entry in self.entries.items()}
            setattr(self, place, nn.ModuleDict({name: x for name, x in found.items() if isinstance(x, nn.Module)}))

    def forward(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute each loss, by name and without its weight; collective call.

        Args:
            embeddings: (B, D) floating point, of this process.
            labels: (B,) integers in [0, C).
        """
        embeddings, labels = embeddings.float() if embeddings.dtype in _HALVES else embeddings, labels.long()
        group = Group()
        if group.size > 1:
            sizes = group.sizes(labels)
            embeddings, labels = _Everyones.apply(embeddings, group, sizes), group.gather(labels, sizes)
        with full_precision(embeddings.device), _seeded(group, embeddings.device):
            return {name: _call(entry, embeddings, labels) for name, entry in self.entries.items()}

    def total(self, values: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of what `forward` returned."""
        weighted = [self.entries[name].weight * value for name, value in values.items()]
        return torch.stack(weighted).sum()

    def described(self) -> dict[str, dict[str, Any]]:
        """Return weight, class and arguments of each loss and its miner, as far as they are plain values."""
        return {
            name: {
                "weight": float(entry.weight),
                "loss": _described(entry.loss),
                "miner": None if entry.miner is None else _described(entry.miner),
            }
            for name, entry in self.entries.items()
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ExtraLosses":
        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in _HALVES and moved.dtype != tensor.dtype else moved

        return super()._apply(keep, recurse)


class _Everyones(torch.autograd.Function):
    """Gathers the embeddings of all processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Group, sizes: list[int]) -> Tensor:
        ctx.num_processes, ctx.mine = group.size, group.local(sizes)
        return group.gather(rows.contiguous(), sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # All processes compute the same losses: the sum of their gradients needs no further call. DDP takes the mean
        return ctx.num_processes * gradients[0][ctx.mine], None, None


def arguments_of(cls: type) -> list[str]:
    """Return the names of the arguments of a class and of those that it passes ``**kwargs`` on to."""
    found: dict[str, None] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base) and base not in (nn.Module, object):
            for parameter in inspect.signature(base).parameters.values():
                if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                    found[parameter.name] = None
    return list(found)


def _described(made: Any) -> dict[str, Any]:
    if inspect.isfunction(made):
        return {"name": f"{made.__module__}.{made.__qualname__}"}
    arguments = {name: _plain(getattr(made, name, None)) for name in arguments_of(type(made))}
    return {"name": type(made).__name__, **{name: value for name, value in arguments.items() if value is not None}}


def _plain(value: Any) -> Any:
    """Return an argument as plain values; None where it has none, or is a parameter, which training changes."""
    value = dict(enumerate(value)) if isinstance(value, nn.ModuleList) else value
    if isinstance(value, nn.ModuleDict | dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, nn.Module) or inspect.isfunction(value):
        return _described(value)
    if isinstance(value, Tensor | np.generic | np.ndarray) and not isinstance(value, nn.Parameter):
        return value.tolist()
    return value if type(value) in PLAIN else None


def _call(entry: ExtraLoss, embeddings: Tensor, labels: Tensor) -> Tensor:
    mined = () if entry.miner is None else (entry.miner(embeddings, labels),)
    return entry.loss(embeddings, labels, *mined)


def _try(name: str, entry: ExtraLoss, embedding_dim: int, num_classes: int) -> None:
    """Call a copy of a loss once, so that what does not work shows before any work."""
    embeddings = torch.linspace(-1, 1, 4 * embedding_dim).sin().view(4, embedding_dim).requires_grad_()
    labels = torch.tensor([0, 0, num_classes - 1, num_classes - 1])
    accepted = f"a loss that takes embeddings (B, {embedding_dim}) and labels of {num_classes} classes"
    with torch.random.fork_rng([]), _seeded(Group(alone=True), embeddings.device):
        try:
            value: Any = _call(deepcopy(entry), embeddings, labels)
        except Exception as error:  # whatever a class that is not ours raises
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(expected("extra_losses", name, accepted, f"It raises: {reason}")) from error
    if not isinstance(value, Tensor) or value.ndim:
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(expected("extra_losses", name, f"{accepted} and returns a scalar, not {found}"))
    if not value.requires_grad:
        raise ValueError(expected("extra_losses", name, f"{accepted} and has a gradient with respect to embeddings"))


@contextmanager
def _seeded(group: Group, device: torch.device) -> Iterator[None]:
    """Seed what is drawn from numpy and `random` by torch's generator, and restore both afterwards.

    With several processes by that of the first one, and what is drawn from torch as well.
    """
    seed = torch.randint(2**32, ())
    several = group.size > 1
    if several:
        group.broadcast(seed := seed.to(device), 0)
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002  # what miners draw from
    np.random.seed(int(seed))  # noqa: NPY002
    random.seed(int(seed))
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=several):
            if several:
                seed_draws(device, int(seed))
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
