"""What callbacks change in a module while it trains, besides its weights: kept in checkpoints, restored on resume."""

from typing import Any

from torch import nn

from arcface_pl.checkpoints.specs import PLAIN


class ModuleChanges:
    """Finds out which parameters are frozen, which modules evaluate, and which plain attributes were changed."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._modules: list[nn.Module] = []
        self._attributes: list[dict[str, Any]] = []
        self._training: list[bool] = []

    def begin(self, module: nn.Module) -> None:
        """Remember the module as it is before training."""
        named = dict(module.named_modules())
        self._names, self._modules = list(named), list(named.values())
        self._attributes = [_attributes(each) for each in self._modules]
        self.see_modes()

    def see_modes(self) -> None:
        """Remember which modules are in training mode; a few microseconds."""
        self._training = [each.training for each in self._modules]

    def state_of(self, module: nn.Module, evaluating: bool) -> dict[str, Any]:
        """Return plain values for `restore`.

        Args:
            module: The module.
            evaluating: All of it is in evaluation mode just now; the modes are those last seen.
        """
        if not evaluating:
            self.see_modes()
        changed = {}
        for name, each, before in zip(self._names, self._modules, self._attributes, strict=True):
            now = _attributes(each)
            if found := {key: value for key, value in now.items() if key not in before or before[key] != value}:
                changed[name] = found
        return {
            "frozen": [name for name, weight in module.named_parameters() if not weight.requires_grad],
            "evaluating": [name for name, mode in zip(self._names, self._training, strict=True) if not mode],
            "changed": changed,
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
        for name, values in state["changed"].items():
            for key, value in values.items() if name in named else ():
                setattr(named[name], key, value)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return a module's own plain attributes, without its mode."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and type(value) in PLAIN
    }
