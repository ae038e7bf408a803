"""Extra losses as plain values in a checkpoint, and built again from them: classes of pytorch-metric-learning only."""

import inspect
import math
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arcface_pl.checkpoints.specs import PLAIN
from arcface_pl.errors import expected
from arcface_pl.training.extra_losses import ExtraLoss, ExtraLosses, arguments_of

PACKAGE = "pytorch_metric_learning"
_MODULES = ("losses", "miners", "distances", "reducers", "regularizers")
_SIZES = ("num_classes", "embedding_size", "descriptors_dim", "memory_size", "centers_per_class", "sub_centers")
_LARGEST = 1 << 20
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


def restorable(extra: ExtraLosses, sizes: Mapping[str, int]) -> list[dict[str, Any]] | None:
    """Return specs from which `build_losses` builds equal losses; None where an object cannot be described.

    Args:
        extra: The losses.
        sizes: ``embedding_size`` and ``num_classes``, which losses of pytorch-metric-learning take and do not all keep.
    """
    specs = []
    try:
        with torch.random.fork_rng([]):  # some draw their first weights
            for entry in extra.entries.values():
                miner = entry.miner and _found_spec(entry.miner, sizes)
                specs.append({**_found_spec(entry.loss, sizes), "weight": float(entry.weight), "miner": miner})
    except Exception:  # whatever a constructor raises over arguments that are not what it was given
        return None
    return specs


def _found_spec(made: Any, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return the spec of an object, with arguments that make one like it.

    Raises:
        ValueError: If none were found.
    """
    cls = known_class(type(made).__name__)
    if cls is not type(made):
        raise ValueError
    own = inspect.signature(cls).parameters  # without those of classes that it passes the others on to
    needed = [name for name in sizes if name in arguments_of(cls) and name not in own]
    optional = {name for name in sizes if name in own and own[name].default is not inspect.Parameter.empty}
    for given in (sizes, {name: size for name, size in sizes.items() if name not in optional}):
        kwargs: dict[str, Any] = {}
        for name in (*own, *needed):
            _take(kwargs, name, made, given)
        built = _built({"name": cls.__name__, "kwargs": kwargs}, math.inf)
        for name in arguments_of(cls):
            if name not in kwargs and _attribute(built, name) != _attribute(made, name):
                _take(kwargs, name, made, given)
        for name, value in kwargs.items():
            if type(value) in (int, float) and _attribute(built, name) != _attribute(made, name):
                kwargs |= _in_another_unit(cls.__name__, kwargs, name, _attribute(made, name))
        spec = {"name": cls.__name__, "kwargs": kwargs}
        if _looks(_built(spec, math.inf)) == _looks(made):
            return spec
    raise ValueError


def _take(kwargs: dict[str, Any], name: str, made: Any, sizes: Mapping[str, int]) -> None:
    """Add an argument, as the attribute of that name has it, as far as a spec can hold it."""
    value = getattr(made, name, _NOT_STORED)
    if name in sizes and (value is _NOT_STORED or value == 0):  # the library sets those that it only lists to 0
        kwargs[name] = sizes[name]
    elif not isinstance(value, nn.Parameter):  # its numbers are in the state dict
        with suppress(TypeError):
            kwargs[name] = _spec_value(value, sizes)


def _spec_value(value: Any, sizes: Mapping[str, int]) -> Any:
    if isinstance(value, nn.ModuleDict | dict):
        return {name: _spec_value(each, sizes) for name, each in value.items()}
    if isinstance(value, nn.ModuleList | list | tuple):
        return [_spec_value(each, sizes) for each in value]
    if isinstance(value, nn.Module):
        return _found_spec(value, sizes)
    if isinstance(value, np.generic | Tensor) and math.prod(value.shape) == 1:
        value = value.item()
    if type(value) not in PLAIN:
        raise TypeError
    return value


def _in_another_unit(cls: str, kwargs: Mapping[str, Any], name: str, wanted: Any) -> dict[str, float]:
    """Return a number that the class keeps as radians of it or its inverse; nothing if it does neither."""
    kept = float(kwargs[name])
    # Rounded first: 28.6 degrees, not 28.599999999999998, is what was given
    for number in (math.degrees(kept), *([1 / kept] if kept else [])):
        for tried in (round(number, 9), number):
            built = _built({"name": cls, "kwargs": {**kwargs, name: tried}}, math.inf)
            if _attribute(built, name) == wanted:
                return {name: tried}
    return {}


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
    nested = {name: _nested(value, numel) for name, value in kwargs.items()}
    try:
        return cls(**nested)
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise ValueError(f"extra_losses: {spec['name']} does not accept these arguments: {error}") from error


def _nested(value: Any, numel: float) -> Any:
    if isinstance(value, Mapping) and "kwargs" in value:
        return _built(value, numel)
    if isinstance(value, Mapping):
        return {name: _nested(each, numel) for name, each in value.items()}
    return [_nested(each, numel) for each in value] if isinstance(value, list) else value


def _attribute(made: Any, name: str) -> Any:
    value = getattr(made, name, _NOT_STORED)
    return _looks(value) if isinstance(value, nn.Module) else _value(value)


def _looks(made: Any) -> Any:
    """Return classes, attributes and shapes of an object: what two equal ones have in common."""
    modules = [
        (name, type(each), {key: _value(value) for key, value in vars(each).items() if not key.startswith("_")})
        for name, each in made.named_modules()
    ]
    return modules, [(name, each.shape) for name, each in made.state_dict().items()]


def _value(value: Any) -> Any:
    if isinstance(value, Tensor | np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_value(each) for each in value]
    if isinstance(value, dict):
        return {key: _value(each) for key, each in value.items()}
    return value if isinstance(value, (*PLAIN, FunctionType)) else type(value)
