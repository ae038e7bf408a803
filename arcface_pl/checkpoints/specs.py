"""Plain {name, kwargs} specs: how a checkpoint describes a backbone or head without naming code to run."""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_NOT_STORED = object()
PLAIN = (bool, int, float, str, type(None))


def spec_of(module: nn.Module) -> dict[str, Any]:
    """Describe ``module`` by its class name and constructor arguments.

    The value of each constructor parameter is read from the attribute of that name. Values that are not plain are left
    out: a class with such parameters is passed in again when the checkpoint is loaded.

    Args:
        module: A backbone or head.

    Returns:
        ``{"name": str, "kwargs": dict of plain values}``.
    """
    kwargs = {}
    for name in inspect.signature(type(module)).parameters:
        try:
            value = getattr(module, name, _NOT_STORED)
        except Exception:  # a property of someone else's class that is not ready yet
            continue
        if isinstance(value, PLAIN) or (isinstance(value, list) and all(isinstance(item, PLAIN) for item in value)):
            kwargs[name] = value
    return {"name": type(module).__name__, "kwargs": kwargs}


def build(role: str, registry: Mapping[str, type[ModuleT]], spec: Any) -> ModuleT:
    """Build the module that ``spec`` describes. Only classes in ``registry`` are built; nothing is imported.

    Args:
        role: "backbone" or "head", for messages.
        registry: Classes by name.
        spec: What `spec_of` returned.

    Returns:
        A new module with fresh weights.

    Raises:
        ValueError: If the name is not in the registry, or the class does not accept the arguments.
    """
    name, kwargs = (spec.get("name"), spec.get("kwargs")) if isinstance(spec, Mapping) else (spec, None)
    if not isinstance(name, str) or name not in registry or not isinstance(kwargs, Mapping):
        raise ValueError(
            f"{role}: got {name!r}; expected one of {', '.join(registry)}. Pass your own as {role}=... "
            f"(on the command line --model.{role} CLASS)"
        )
    try:
        return registry[name](**kwargs)
    except TypeError as error:
        raise ValueError(f"{role}: {name} does not accept these arguments: {error}") from error
