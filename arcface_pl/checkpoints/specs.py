"""Plain {name, kwargs} specs: how a checkpoint remembers a backbone or a head without naming code to run."""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["build", "spec_of"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)
PLAIN = (bool, int, float, str, type(None))


def spec_of(module: nn.Module) -> dict[str, Any]:
    """Describe ``module`` by its class's name and its constructor's arguments.

    Every constructor parameter is read from the attribute of the same name, which holds for the package's own classes.
    An argument of a user's own class that is no plain value is left out: such a class is passed again at loading.

    Args:
        module: A backbone or a head.

    Returns:
        ``{"name": str, "kwargs": dict of plain values}``.
    """
    kwargs = {}
    for name in inspect.signature(type(module)).parameters:
        value = getattr(module, name, None)
        if isinstance(value, PLAIN) or (isinstance(value, list) and all(isinstance(item, PLAIN) for item in value)):
            kwargs[name] = value
    return {"name": type(module).__name__, "kwargs": kwargs}


def build(
    role: str,
    registry: Mapping[str, type[ModuleT]],
    spec: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> ModuleT:
    """Make the module that ``spec`` describes from the package's own classes; nothing else is ever imported.

    Args:
        role: What it is for, such as "backbone": the keyword with which a user passes a class of their own.
        registry: The package's classes by name.
        spec: What `spec_of` returned.
        weights: A checkpoint's, with ``role`` before their names. A module that would be larger is not made: a file's
            few bytes must not take all memory.

    Returns:
        A new module with fresh weights.

    Raises:
        ValueError: If the name is not in the registry or the arguments do not fit the class.
    """
    name, kwargs = (spec.get("name"), spec.get("kwargs")) if isinstance(spec, Mapping) else (spec, None)
    if not isinstance(name, str) or name not in registry or not isinstance(kwargs, Mapping):
        raise ValueError(
            f"{role}: {name!r} is not one of this package's ({', '.join(registry)}); "
            f"pass a class of your own as load_from_checkpoint(path, {role}=...)"
        )
    try:
        if weights is not None:
            with torch.device("meta"):  # shapes without memory
                _check_sizes(role, registry[name](**kwargs), weights)
        return registry[name](**kwargs)
    except TypeError as error:
        raise ValueError(f"{role}: {name} does not take these arguments: {error}") from error


def _check_sizes(role: str, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, tensor in module.state_dict(prefix=f"{role}.").items():
        found = weights.get(name)
        if found is None or found.shape != tensor.shape:
            shape = "nothing" if found is None else tuple(found.shape)
            raise ValueError(f"{name} is {shape} in the file, but {tuple(tensor.shape)} by the file's own settings")
