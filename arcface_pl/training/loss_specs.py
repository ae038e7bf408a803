"""Extra losses as plain values in a checkpoint, and built again from them: classes of pytorch-metric-learning only."""

import inspect
import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from arcface_pl.checkpoints.specs import PLAIN
from arcface_pl.errors import expected
from arcface_pl.training.extra_losses import ExtraLoss, ExtraLosses, arguments_of

PACKAGE = "pytorch_metric_learning"
_MODULES = ("losses", "miners", "distances", "reducers", "regularizers")
_SIZES = ("num_classes", "embedding_size", "descriptors_dim", "memory_size", "centers_per_class", "sub_centers")
_LARGEST = 1 << 20
_COMPARED = (*PLAIN, list, tuple)
_NOT_STORED = object()


def known_class(name: Any) -> type | None:
    """Return the class of pytorch-metric-learning with that name; None if there is none, or no such package."""
    for module in _MODULES if isinstance(name, str) else ():
        try:
            found = getattr(import_module(f"{PACKAGE}.{module}"), name, None)
        except ImportError:
            return None
        if isinstance(found, type) and issubclass(found, nn.Module):
            return found
    return None


def restorable(extra: ExtraLosses, embedding_dim: int) -> list[dict[str, Any]] | None:
    """Return specs from which `build_losses` builds equal losses; None where the objects do not keep their arguments.

    Args:
        extra: The losses.
        embedding_dim: D, which losses of pytorch-metric-learning take and do not keep.
    """
    specs = []
    try:
        with torch.random.fork_rng([]):  # some draw their first weights
            for entry in extra.entries.values():
                miner = entry.miner and _found_arguments(entry.miner, embedding_dim)
                spec = _found_arguments(entry.loss, embedding_dim)
                specs.append({**spec, "weight": float(entry.weight), "miner": miner})
    except Exception:  # whatever a constructor raises over arguments that are not what it was given
        return None
    return specs


def _found_arguments(made: Any, embedding_dim: int) -> dict[str, Any]:
    """Return the spec of an object, and its arguments as far as it does not have them by default.

    Raises:
        ValueError: If an object built from them is not like this one.
    """
    cls = known_class(type(made).__name__)
    if cls is not type(made):
        raise ValueError
    own = list(inspect.signature(cls).parameters)  # without those of classes that it passes the others on to
    kwargs: dict[str, Any] = {}
    for names in (own, [name for name in arguments_of(cls) if name not in own]):
        if names is not own:
            built = _built({"name": cls.__name__, "kwargs": kwargs}, math.inf)
        for name in names:
            value = getattr(made, name, _NOT_STORED)
            if names is not own and _looks(value) == _looks(getattr(built, name, _NOT_STORED)):
                continue
            if name == "embedding_size":
                kwargs[name] = embedding_dim
            elif type(value) in PLAIN:
                kwargs[name] = value
            elif isinstance(value, nn.Module):
                kwargs[name] = _found_arguments(value, embedding_dim)
    spec = {"name": cls.__name__, "kwargs": kwargs}
    if _looks(_built(spec, math.inf)) != _looks(made):
        raise ValueError
    return spec


def build_losses(specs: Any, weights: Mapping[str, Tensor]) -> list[ExtraLoss]:
    """Build losses from the specs in a checkpoint. Nothing is imported but pytorch-metric-learning.

    Args:
        specs: What `restorable` returned.
        weights: The losses' parameters and buffers in the checkpoint, which bound what is allocated.

    Raises:
        ValueError: If a class is unknown or does not accept the arguments.
    """
    if not isinstance(specs, list):
        raise ValueError(expected("extra_losses", type(specs).__name__, "a list"))
    numel = max(_LARGEST, sum(each.numel() for each in weights.values()))
    return [
        ExtraLoss(_built(spec, numel), spec.get("weight"), spec.get("miner") and _built(spec["miner"], numel))
        for spec in specs
    ]


def _built(spec: Any, numel: float) -> Any:
    cls = known_class(spec.get("name")) if isinstance(spec, Mapping) else None
    kwargs = spec.get("kwargs") if cls is not None else None
    if cls is None or not isinstance(kwargs, Mapping):
        name = spec.get("name") if isinstance(spec, Mapping) else spec
        raise ValueError(expected("extra_losses", name, f"a class of {PACKAGE}, which is installed"))
    sizes = {name: value for name, value in kwargs.items() if name in _SIZES and isinstance(value, int)}
    if math.prod(sizes.values()) > numel:
        raise ValueError(expected("extra_losses", sizes, "the sizes of its weights in the file"))
    nested = {name: _built(value, numel) if isinstance(value, Mapping) else value for name, value in kwargs.items()}
    try:
        return cls(**nested)
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise ValueError(f"extra_losses: {spec['name']} does not accept these arguments: {error}") from error


def _looks(made: Any) -> Any:
    """Return classes, attributes and shapes of an object: what two equal ones have in common."""
    if not isinstance(made, nn.Module):
        return made if type(made) in PLAIN else type(made)
    modules = [
        (name, type(each), {key: _value(value) for key, value in vars(each).items() if not key.startswith("_")})
        for name, each in made.named_modules()
    ]
    return modules, [(name, each.shape) for name, each in made.state_dict().items()]


def _value(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value if isinstance(value, _COMPARED) else type(value)
