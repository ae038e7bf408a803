"""What callbacks change in a module while it trains, besides its weights: kept in checkpoints, restored on resume."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from arcface_pl.callbacks.run.private_apis import num_hooks
from arcface_pl.checkpoints.specs import PLAIN


class ModuleChanges:
    """Finds out what is frozen, which modules evaluate, and which attributes, modules and hooks were changed."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._modules: list[nn.Module] = []
        self._attributes: list[dict[str, Any]] = []
        self._code: dict[str, str] = {}
        self._training: list[bool] = []

    def begin(self, module: nn.Module) -> None:
        """Remember the module as it is before training."""
        named = dict(module.named_modules())
        self._names, self._modules = list(named), list(named.values())
        self._attributes = [_attributes(each) for each in self._modules]
        self._code = _code(module)
        self.see_modes()

    def see_modes(self) -> None:
        """Remember which modules are in training mode; a few microseconds."""
        self._training = [each.training for each in self._modules]

    def state_of(self, module: nn.Module, evaluating: bool) -> dict[str, Any]:
        """Return plain values and tensors for `restore` and `lost`.

        Args:
            module: The module.
            evaluating: All of it is in evaluation mode just now; the modes are those last seen.
        """
        if not evaluating:
            self.see_modes()
        changed = {}
        for name, each, before in zip(self._names, self._modules, self._attributes, strict=True):
            now = _attributes(each)
            if found := {key: value for key, value in now.items() if not _same(value, before.get(key, _MISSING))}:
                changed[name] = found
        now = _code(module)
        return {
            "frozen": [name for name, weight in module.named_parameters() if not weight.requires_grad],
            "evaluating": [name for name, mode in zip(self._names, self._training, strict=True) if not mode],
            "changed": changed,
            "code": {name: now.get(name) for name in {**self._code, **now} if now.get(name) != self._code.get(name)},
        }

    def restore(self, module: nn.Module, state: dict[str, Any]) -> None:
        """Change the module as it was when `state_of` looked; names that it does not have are skipped."""
        if not state:
            return
        for name, weight in module.named_parameters():
            weight.requires_grad_(name not in state["frozen"])
        named = dict(module.named_modules())
        for name, each in named.items():
            each.training = name not in state["evaluating"]
        device = next((weight.device for weight in module.parameters()), None)
        for name, values in state["changed"].items():
            for key, value in values.items() if name in named else ():
                setattr(named[name], key, value.to(device) if isinstance(value, Tensor) else value)


def lost(module: nn.Module, state: dict[str, Any]) -> list[str]:
    """Return one phrase, with both values, for each change that a checkpoint cannot hold and this module lacks.

    Such are another module in the place of one, hooks, and functions as attributes.
    """
    now = _code(module)
    return [
        f"{name}: the checkpoint has {there or 'nothing'}, this run {now.get(name) or 'nothing'}"
        for name, there in state.get("code", {}).items()
        if now.get(name) != there
    ]


_MISSING = object()


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return a module's own plain attributes and tensors, without its mode and what a metric has counted."""
    kinds = PLAIN if isinstance(module, Metric) else (*PLAIN, Tensor)
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else value
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and type(value) in kinds
    }


def _code(module: nn.Module) -> dict[str, str]:
    """Return the class and the number of hooks of each module by name, and the names of functions among attributes."""
    found = {}
    for name, each in module.named_modules():
        hooks = num_hooks(each)
        found[name] = type(each).__name__ + (f" with {hooks} hook{'s' * (hooks > 1)}" if hooks else "")
        for key, value in vars(each).items():
            if not key.startswith("_") and callable(value):
                place = f"{name}.{key}" if name else key
                found[place] = getattr(value, "__name__", type(value).__name__)
    return found
