"""Constructor arguments of a module as plain values in its checkpoint, and the module rebuilt from them."""

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Self

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.parsing import collect_init_args
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from arcface_pl.callbacks.run.exact_resume import check_networks
from arcface_pl.checkpoints.network import build_network, size_lazy_layers
from arcface_pl.checkpoints.reading import FORMAT_VERSION, check_fit, check_resumable, read_checkpoint
from arcface_pl.checkpoints.specs import spec_of
from arcface_pl.errors import CheckpointError, expected, listed
from arcface_pl.training import schedules
from arcface_pl.training.loss_specs import build_losses

_NOT_PLAIN = object()
_EMPTY = inspect.Parameter.empty
# Hyperparameters that checkpoints describe in another way, from the objects themselves
_DESCRIBED = ("backbone", "head", "optimizer", "lr_schedule", "extra_losses")
TRAINING_ONLY = ("extra_losses.", "distillation.")
"""What begins the names of weights that a trained model does without."""
TEACHING = ("teacher", "teacher_weight")
"""Settings that checkpoints hold where there is a teacher."""
# Keys under which LightningCLI names code to run
_LIGHTNING_CLI = ("_instantiator", "_class_path")
# Arguments that a schedule gets from the Trainer, or that move while it runs
_NOT_SETTINGS = ("optimizer", "total_steps", "last_epoch", "params")


def _subclasses(library: Any, base: type) -> dict[str, type]:
    return {name: each for name, each in vars(library).items() if isinstance(each, type) and issubclass(each, base)}


LOOP_CLASSES = {
    "optimizer": _subclasses(torch.optim, Optimizer),
    "lr_schedule": _subclasses(torch.optim.lr_scheduler, LRScheduler) | _subclasses(schedules, LRScheduler),
}
"""By role, the classes that a checkpoint may name: those of torch and of this package."""


def plain(value: Any) -> Any:
    """Reduce ``value`` to what a checkpoint may hold: numbers, text, None, lists and dictionaries of them.

    A network becomes its ``{"name", "kwargs"}`` spec, as does a class that a LightningCLI config describes.
    Items that are none of these are left out.
    """
    if value is None:
        return value
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind.__str__(value) if kind is str else kind(value)  # not NumPy's numbers, nor members of an Enum
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, nn.Module):
        return spec_of(value)
    if isinstance(value, Mapping) and "class_path" in value:
        return {"name": str(value["class_path"]).rpartition(".")[2], "kwargs": plain(value.get("init_args") or {})}
    if isinstance(value, Mapping):
        items = {str(key): plain(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not _NOT_PLAIN and key not in _LIGHTNING_CLI}
    if isinstance(value, list | tuple):
        return [item for item in map(plain, value) if item is not _NOT_PLAIN]
    return _NOT_PLAIN


def is_kept(value: Any) -> bool:
    """Return whether `plain` keeps all of a value, so that a constructor can be given it again."""
    if isinstance(value, Mapping):
        return "class_path" not in value and all(isinstance(key, str) and is_kept(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_kept, value))
    return not isinstance(value, nn.Module) and plain(value) is not _NOT_PLAIN


def arguments_of_subclasses(frame: FrameType | None, shared: Collection[str]) -> dict[str, Any]:
    """Return what the constructors of a module's subclasses were called with, whether or not they save it themselves.

    Args:
        frame: That of the base class's constructor.
        shared: Arguments of the base class that are returned, too, where a subclass passed another value on.
    """
    assert frame is not None
    base, *subclasses = collect_init_args(frame, [], classes=(L.LightningModule,))
    found = {name: value for arguments in subclasses for name, value in arguments.items()}
    return {
        name: value for name, value in found.items() if name not in base or (name in shared and value is not base[name])
    }


def trainer_of(module: Any) -> Any:
    """Return the Trainer of a LightningModule, or None outside a run and under Fabric."""
    if module.fabric is not None:
        return None
    try:
        return module.trainer
    except RuntimeError:
        return None


def plain_hyperparameters(module: Any) -> tuple[dict[str, Any], list[str]]:
    """Return a module's hyperparameters as plain values, and the names of those that have none.

    Args:
        module: An `ArcFaceModule`; the optimizer and schedule that its Trainer uses are described by their settings.

    Returns:
        The values, and the names of those that a constructor cannot be given again, as far as there is a value at all.
    """
    given = {name: value for name, value in module.hparams.items() if not name.startswith("_")}
    found = {name: plain(value) for name, value in given.items()} | dict.fromkeys(LOOP_CLASSES, _NOT_PLAIN)
    found |= module.specs
    if module.extra_losses is not None:
        found["extra_losses"] = _NOT_PLAIN if module.loss_specs is None else module.loss_specs
    trainer = trainer_of(module)
    if trainer is not None and trainer.optimizers:
        optimizer, configs = trainer.optimizers[0], trainer.lr_scheduler_configs
        found["optimizer"] = _spec("optimizer", optimizer, optimizer.defaults)
        scheduler = configs[0].scheduler if configs else None
        found["lr_schedule"] = None if scheduler is None else _spec("lr_schedule", scheduler, vars(scheduler))
    parts = [name for name, value in given.items() if not is_kept(value) and name not in _DESCRIBED]
    return (
        {name: value for name, value in found.items() if value is not _NOT_PLAIN},
        sorted({name for name, value in found.items() if value is _NOT_PLAIN} | {*module.not_kept, *parts}),
    )


def _spec(role: str, made: Any, settings: Mapping[str, Any]) -> Any:
    """Describe an optimizer or schedule; not plain if its class is not known or an argument is not stored."""
    if LOOP_CLASSES[role].get(type(made).__name__) is not type(made):
        return _NOT_PLAIN
    kwargs = {}
    for name, parameter in inspect.signature(type(made)).parameters.items():
        if name in _NOT_SETTINGS:
            continue
        value = plain(settings.get(name, _NOT_PLAIN))
        if value is _NOT_PLAIN and parameter.default is parameter.empty:
            return _NOT_PLAIN
        if value is not _NOT_PLAIN:
            kwargs[name] = value
    return {"name": type(made).__name__, "kwargs": kwargs}


def _factory(spec: Any, known: Mapping[str, type]) -> Callable[..., Any] | None:
    if not isinstance(spec, Mapping) or spec.get("name") not in known or not isinstance(spec.get("kwargs"), Mapping):
        return None
    return partial(known[spec["name"]], **spec["kwargs"])


class RestorableModule(L.LightningModule):
    """Base class: checkpoints hold what using the model needs, and `load_from_checkpoint` rebuilds it from them.

    A subclass has ``specs`` of its networks, ``extra_losses`` and ``loss_specs``, too, and in ``not_kept`` the names of
    arguments that are no plain values.
    """

    data_facts: dict[str, Any]
    init_from: str | Path | None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what using the model needs: specs of its classes, class names, normalization, seed."""
        checkpoint["format_version"] = FORMAT_VERSION
        checkpoint["data"] = self.data_facts
        checkpoint["hyper_parameters"], checkpoint["not_restored"] = plain_hyperparameters(self)
        if "datamodule_hyper_parameters" in checkpoint:
            checkpoint["datamodule_hyper_parameters"] = plain(checkpoint["datamodule_hyper_parameters"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore our entries.

        Raises:
            CheckpointError: If the weights do not fit this network, or the file lacks what resuming needs.
        """
        trainer = trainer_of(self)
        path = getattr(trainer, "ckpt_path", None) or "the checkpoint"
        self.data_facts = checkpoint.get("data", {})
        self.init_from = None
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
            check_resumable(path, checkpoint)
            check_networks(self, checkpoint)
        else:
            drop_training_only(self, checkpoint["state_dict"])
        if self.strict_loading:
            check_fit(path, checkpoint["state_dict"], self.state_dict())

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's imports the classes that a file names
        cls,
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        hparams_file: None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Rebuild a trained module. Reads tensors and plain values only; imports and runs nothing the file names.

        Args:
            checkpoint_path: A file written by the Trainer.
            map_location: Device of the module; None for the CPU.
            hparams_file: For Lightning's signature only: the checkpoint holds the hyperparameters.
            strict: Whether the weights must be exactly the network's; None for yes.
            weights_only: For Lightning's signature only: files are read as if it were true, whatever it is.
            **kwargs: Constructor arguments that replace saved ones. ``backbone`` and ``head`` are needed where they
                are not classes of this package; ``optimizer`` and ``lr_schedule`` where not of torch or this package,
                and ``extra_losses`` where not of pytorch-metric-learning, to train on.

        Returns:
            The module in evaluation mode.

        Raises:
            CheckpointError: If the file is damaged, unsafe, or does not fit the classes.
            ValueError: If there is a ``hparams_file``.
        """
        if hparams_file is not None:
            remedy = "Pass hyperparameters as keyword arguments"
            raise ValueError(expected("hparams_file", str(hparams_file), "None: the checkpoint holds them", remedy))
        strict = strict is not False
        content = read_checkpoint(checkpoint_path)
        weights = content["state_dict"]
        try:
            module: Any = cls(**_arguments(cls, content, kwargs))
        except (KeyError, ValueError, RuntimeError, AttributeError, TypeError) as error:
            remedy = "pass the arguments it was trained with to load_from_checkpoint"
            raise CheckpointError(checkpoint_path, str(error), remedy) from error
        drop_training_only(module, weights)
        if strict:
            check_fit(checkpoint_path, weights, module.state_dict())
        module.load_state_dict(weights, strict=strict)
        module.strict_loading = strict
        module.on_load_checkpoint(content)
        module.strict_loading = None
        if isinstance(map_location, str | int | torch.device):  # mappings and functions are about the saving device
            module.to(map_location)
        return module.eval()


def drop_training_only(module: nn.Module, weights: dict[str, Any]) -> None:
    """Remove what only training needs, such as weights of extra losses, from a state dict where the module lacks it.

    Args:
        module: Is to receive the weights.
        weights: The state dict of a checkpoint; changed.
    """
    present = module.state_dict().keys()
    for name in [name for name in weights if name.startswith(TRAINING_ONLY) and name not in present]:
        del weights[name]


def _arguments(cls: type, content: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    saved, accepted = dict(content["hyper_parameters"]), inspect.signature(cls).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    for role in ("backbone", "head"):
        if role not in kwargs and (role in accepted or takes_any):
            saved[role] = build_network(role, content)
    if isinstance(kwargs.get("backbone"), nn.Module):
        size_lazy_layers(kwargs["backbone"], content)
    for role, known in LOOP_CLASSES.items():
        if (factory := _factory(saved.pop(role, None), known)) is not None:
            saved[role] = factory
    lost = [name for name in content.get("not_restored") or [] if name not in kwargs]
    for name in lost:
        saved.pop(name, None)  # a part of it, or its description
    extra = saved.pop("extra_losses", None)
    if extra is not None and "extra_losses" not in kwargs:
        weights = {name: each for name, each in content["state_dict"].items() if name.startswith("extra_losses.")}
        try:
            saved["extra_losses"] = build_losses(extra, weights)
        except ValueError:
            lost.append("extra_losses")
    # Without a default, the constructor itself asks for it
    lost = [name for name in lost if (accepted[name].default is not _EMPTY if name in accepted else takes_any)]
    if lost:
        warnings.warn(
            f"{cls.__name__}.load_from_checkpoint: {listed(lost)} cannot be restored from the file and has its "
            f"default; pass it as a keyword argument to train on",
            stacklevel=3,
        )
    return {name: value for name, value in saved.items() if takes_any or name in accepted} | dict(kwargs)
