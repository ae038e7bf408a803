"""Rebuild the backbone and head of a checkpoint. This is the only place that does so."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from arcface_pl.backbones import BACKBONES
from arcface_pl.backbones.adapter import embedding_width
from arcface_pl.checkpoints.reading import check_fit
from arcface_pl.checkpoints.specs import build
from arcface_pl.errors import CheckpointError, expected
from arcface_pl.heads import HEADS, Head

LARGEST_IMAGE = 8192
"""Pixels: the image size of a network that convolves is not bounded by its weights."""

REGISTRIES: dict[str, Mapping[str, type[nn.Module]]] = {"backbone": BACKBONES, "head": HEADS}
"""By role, the classes that a checkpoint may name."""


def rebuild(
    content: Mapping[str, Any], path: str | Path, *, backbone: nn.Module | None = None, head: Head | None = None
) -> tuple[nn.Module, Head]:
    """Rebuild the networks of a checkpoint, with its weights, on the CPU.

    Sizes in the file that its own weights do not bear out are refused before memory is allocated for them.

    Args:
        content: What `read_checkpoint` returned: ``hyper_parameters`` with the specs of ``backbone`` and ``head``,
            ``state_dict`` with their weights under ``backbone.`` and ``head.``, and ``data`` with the images' sizes.
        path: Where it was read from, for messages.
        backbone: Receives the weights in place of a rebuilt one; needed if the class is not one of this package.
        head: The same for the head.

    Returns:
        Backbone and head, in training mode if rebuilt.

    Raises:
        CheckpointError: If a class is unknown, its arguments are not accepted, or the weights do not fit.
    """
    weights = content["state_dict"]
    try:
        if backbone is None:
            backbone = build_network("backbone", content)
        else:
            size_lazy_layers(backbone, content)
        head = build_network("head", content) if head is None else head
    except (ValueError, RuntimeError, AttributeError, TypeError, ArithmeticError, LookupError) as error:
        raise CheckpointError(path, str(error), "use the classes it was trained with") from error
    for role, network in (("backbone", backbone), ("head", head)):
        own = {name: tensor for name, tensor in weights.items() if name.startswith(f"{role}.")}
        check_fit(path, own, network.state_dict(prefix=f"{role}."))
        network.load_state_dict({name.removeprefix(f"{role}."): tensor for name, tensor in own.items()})
    return backbone, head


def is_known(role: str, spec: Any) -> bool:
    """Whether the spec of a "backbone" or "head" names a class of this package."""
    return isinstance(spec, Mapping) and spec.get("name") in [*REGISTRIES[role]]


def size_lazy_layers(backbone: nn.Module, content: Mapping[str, Any]) -> None:
    """Size the lazy layers of a user's own network, if it has any, by a pass over images of the trained size.

    Raises:
        ValueError: If the network does not take such images.
    """
    facts = content.get("data") or {}
    sizes: list[Any] = [facts.get(name) for name in ("in_channels", "image_size")]
    if any(map(nn.parameter.is_lazy, backbone.parameters())) and all(isinstance(size, int) for size in sizes):
        embedding_width(backbone, *sizes)


def build_network(role: str, content: Mapping[str, Any]) -> Any:
    """Build the backbone or head that a checkpoint describes, with fresh weights.

    Args:
        role: "backbone" or "head".
        content: See `rebuild`.

    Raises:
        ValueError, RuntimeError, TypeError, AttributeError: If the class is unknown, its arguments are not accepted, or
            it has other sizes than the checkpoint's weights.
    """
    registry, spec = REGISTRIES[role], content["hyper_parameters"].get(role)
    own = {name: tensor for name, tensor in content["state_dict"].items() if name.startswith(f"{role}.")}
    with torch.device("meta"), _at_most(2 * len(own) + 64):  # shapes without memory
        module = build(role, registry, spec)
    if (size := getattr(module, "image_size", 0)) > LARGEST_IMAGE:
        raise ValueError(expected(f"{role}.image_size", size, f"at most {LARGEST_IMAGE}"))
    for name, tensor in module.state_dict(prefix=f"{role}.").items():
        if name not in own or own[name].shape != tensor.shape:
            shape = tuple(own[name].shape) if name in own else "missing"
            raise ValueError(f"{name} is {shape} in the file, but {tuple(tensor.shape)} by the file's own settings")
    return build(role, registry, spec)


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Raise once modules that the body builds have more parameters: a billion layers would take hours even as meta."""
    made = 0

    def see(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal made
        made += parameter is not None
        if made > count:
            raise ValueError(f"{type(module).__name__}: has more weights by the file's own settings than the file")

    handle = register_module_parameter_registration_hook(see)
    try:
        yield
    finally:
        handle.remove()
