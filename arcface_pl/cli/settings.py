"""`ArcFaceCLI`: LightningCLI over this package's classes, with sizes from the data and errors in one line."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import lightning as L
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch import loggers as lightning_loggers
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from arcface_pl import callbacks, data
from arcface_pl.backbones import BACKBONES, Backbone
from arcface_pl.callbacks.run.defaults import check_trainer
from arcface_pl.cli.config import CLASS_KEYS, import_class, unknown
from arcface_pl.cli.error_lines import settings_errors
from arcface_pl.cli.report import SaveConfig
from arcface_pl.cli.values import check_seed, check_trainer_values, check_values, name_culprit
from arcface_pl.errors import SettingsError
from arcface_pl.heads import HEADS, Head
from arcface_pl.training import schedules
from arcface_pl.training.module import ArcFaceModule

__all__ = ["ArcFaceCLI", "build_data", "class_path"]


def _public(module: Any, base: type) -> dict[str, type]:
    return {name: value for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)}


# Classes that a config or flag may name without their full path.
_BY_NAME: dict[str, Mapping[str, type]] = {
    "model.backbone": BACKBONES,
    "model.head": HEADS,
    "model.optimizer": _public(torch.optim, torch.optim.Optimizer),
    "model.lr_schedule": _public(schedules, schedules.Schedule),
    "data": _public(data, L.LightningDataModule),
    "trainer.logger": _public(lightning_loggers, lightning_loggers.Logger) | {"RunLogger": callbacks.RunLogger},
    "trainer.callbacks": _public(lightning_callbacks, L.Callback) | _public(callbacks, L.Callback),
}
# What each of them is, whether the package's own or a user's.
_KINDS: dict[str, type] = {
    "model.backbone": Backbone,
    "model.head": Head,
    "model.optimizer": torch.optim.Optimizer,
    "model.lr_schedule": torch.optim.lr_scheduler.LRScheduler,
    "data": L.LightningDataModule,
    "trainer.logger": lightning_loggers.Logger,
    "trainer.callbacks": L.Callback,
}
# A Trainer flag that turns something off takes the callbacks along that Lightning would refuse without it.
_NEEDS = {
    "enable_progress_bar": lightning_callbacks.ProgressBar,
    "enable_checkpointing": lightning_callbacks.Checkpoint,
    "logger": lightning_callbacks.LearningRateMonitor,
}
_MAY_BE_NULL = ("model.lr_schedule", "trainer.logger", "trainer.callbacks")
_MAY_BE_LISTS = ("trainer.logger", "trainer.callbacks")


class ArcFaceCLI(LightningCLI):
    """Checks merged settings and builds data module, model and Trainer from them.

    Args:
        settings: All layers merged, in LightningCLI's schema.

    Raises:
        SettingsError: If a setting is unknown, of the wrong type or out of range, or the device is not there.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(
            ArcFaceModule,
            L.LightningDataModule,
            subclass_mode_data=True,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False},
            # Without a logger there is no run's folder, and the config would be left wherever one happens to be.
            save_config_callback=SaveConfig if settings["trainer"].get("logger") else None,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # it would have checkpoints name classes to import
            run=False,
            args=settings,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Name every class in full, fill in what follows from the data, and check every value."""
        assert isinstance(args, dict)
        settings = _without_unwanted(_with_full_names(args))
        for section in ("trainer", "model"):
            known = [action.dest for action in parser._actions if action.dest.startswith(f"{section}.")]
            for name in settings[section]:
                if f"{section}.{name}" not in known:
                    raise SettingsError(unknown(f"{section}.{name}", known))
        check_seed(settings["seed_everything"])
        check_trainer_values(settings["trainer"])
        _check_classes(settings)
        with settings_errors():
            self.config = parser.parse_object(settings)
        check_values("trainer", L.Trainer, settings["trainer"], self.config.trainer)
        check_values("model", ArcFaceModule, settings["model"], self.config.model)
        _check_accelerator(self.config.trainer.accelerator)

    def instantiate_classes(self) -> None:
        """Build everything; the Trainer too, so that a missing device shows before any work."""
        with settings_errors("model"):
            super().instantiate_classes()
            check_trainer(self.model, self.trainer)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the Trainer."""
        with settings_errors("trainer", inspect.signature(L.Trainer).parameters):
            return super().instantiate_trainer(**kwargs)


def build_data(node: Any, sizes: Mapping[str, int]) -> Any:
    """Build a data module for a network that is there already.

    Args:
        node: Its class and settings, or its class alone, as a config has them under ``data``.
        sizes: ``in_channels`` and ``image_size`` of the network, filled in where the class takes them.

    Returns:
        The data module.

    Raises:
        SettingsError: If a setting is unknown, of the wrong type or out of range, or its images are of another size.
    """
    node = _with_full_names({"data": node})["data"]
    for name, value in sizes.items():
        _fill("data", node, name, value, "the checkpoint's network takes")
    datamodule = _built("data", node)
    for name, value in sizes.items():
        found = getattr(datamodule, name, value)
        if found != value:
            raise SettingsError(f"data: its images have {name} {found}, but the checkpoint's network takes {value}")
    return datamodule


def class_path(cls: type) -> str:
    """Return the dotted name under which a config names ``cls``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _resolve(key: str, path: Any) -> type:
    known = _BY_NAME.get(key, {})
    if isinstance(path, str) and path in known:
        return known[path]
    found = import_class(path) if isinstance(path, str) else None
    if found is None or not issubclass(found, _KINDS[key]):
        names = sorted(name for name in known if not name.startswith("_") and not inspect.isabstract(known[name]))
        raise SettingsError(f"{key}: got {path!r}, but it accepts {', '.join(names)} or the full path of a class")
    return found


def _with_full_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Name each class by its full path."""
    settings = deepcopy(settings)
    for key in _BY_NAME:
        parts = key.split(".")
        parent: Any = settings.get(parts[0]) if len(parts) == 2 else settings
        if not isinstance(parent, dict) or parts[-1] not in parent:
            continue
        value = parent[parts[-1]]
        if isinstance(value, str):
            value = parent[parts[-1]] = {"class_path": value}
        if not ((value is None and key in _MAY_BE_NULL) or (isinstance(value, bool) and key == "trainer.logger")):
            for node in value if isinstance(value, list) and key in _MAY_BE_LISTS else [value]:
                _check_class_node(key, node)
                node["class_path"] = class_path(_resolve(key, node["class_path"]))
    return settings


def _check_class_node(key: str, node: Any) -> None:
    if not isinstance(node, dict) or "class_path" not in node:
        raise SettingsError(f"{key}: got {node!r}, but it accepts a class's name, or its class_path and init_args")
    if foreign := [name for name in node if name not in CLASS_KEYS]:
        raise SettingsError(f"{key}.{foreign[0]}: unknown beside class_path; a class's own settings are its init_args")
    for part in ("init_args", "dict_kwargs"):
        if not isinstance(node.get(part) or {}, dict):
            raise SettingsError(f"{key}.{part}: got {node[part]!r}, but it accepts a mapping of settings")


def _without_unwanted(settings: dict[str, Any]) -> dict[str, Any]:
    trainer = settings["trainer"]
    for flag, kind in _NEEDS.items():
        if trainer.get(flag) is False:
            trainer["callbacks"] = [
                node
                for node in trainer.get("callbacks") or []
                if not issubclass(_resolve("trainer.callbacks", node["class_path"]), kind)
            ]
    if isinstance(trainer.get("logger"), dict):
        arguments = trainer["logger"].setdefault("init_args", {})
        if arguments.get("save_dir") is None and trainer.get("default_root_dir") is not None:
            arguments["save_dir"] = str(trainer["default_root_dir"])
    return settings


def _check_classes(settings: dict[str, Any]) -> None:
    """Build each class once, sizes filled in, so that a wrong value is named by its own setting."""
    model, trainer = settings["model"], settings["trainer"]
    datamodule = _built("data", settings["data"])
    for name in ("in_channels", "image_size"):
        _fill("model.backbone", model["backbone"], name, getattr(datamodule, name, None), "the data's images have")
    with torch.device("meta"):  # no memory: a head may have a million classes
        backbone = _built("model.backbone", model["backbone"])
        _fill("model.head", model["head"], "embedding_dim", backbone.embedding_dim, "the backbone gives")
        _fill("model.head", model["head"], "num_classes", getattr(datamodule, "num_classes", None), "the data has")
        _built("model.head", model["head"])
    if model.get("optimizer"):
        _built("model.optimizer", model["optimizer"], [torch.nn.Parameter(torch.zeros(1))])
    if model.get("lr_schedule"):
        _built("model.lr_schedule", model["lr_schedule"], torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]))
    for node in trainer.get("callbacks") or []:
        _built("trainer.callbacks", node)
    if isinstance(trainer.get("logger"), dict):
        _built("trainer.logger", trainer["logger"])


def _built(key: str, node: dict[str, Any], *positional: Any) -> Any:
    cls = _resolve(key, node["class_path"])
    given = node.get("init_args") or {}
    names = list(inspect.signature(cls).parameters)
    parser = ArgumentParser(exit_on_error=False)
    skipped = set(names[: len(positional)])
    known = parser.add_class_arguments(cls, key, skip=skipped, instantiate=False, fail_untyped=False)
    for name in given:
        if f"{key}.{name}" not in known:
            raise SettingsError(f"{unknown(f'{key}.{name}', known)} ({cls.__name__} accepts {', '.join(names)})")
    nested: Any = given
    for part in reversed(key.split(".")):
        nested = {part: nested}
    with settings_errors(key):
        parsed = parser.instantiate(parser.parse_object(nested if known else {})).get(key)
    arguments = {**(parsed.as_dict() if parsed else {}), **(node.get("dict_kwargs") or {})}
    make = partial(cls, *positional)
    with settings_errors(key, given, partial(name_culprit, make, arguments)):
        built = make(**arguments)
    check_values(key, cls, given, arguments)
    return built


def _fill(key: str, node: dict[str, Any], name: str, value: Any, origin: str) -> None:
    if value is None or name not in inspect.signature(_resolve(key, node["class_path"])).parameters:
        return
    arguments = node.setdefault("init_args", {})
    if arguments.get(name) is None:
        arguments[name] = value
    elif arguments[name] != value:
        raise SettingsError(f"{key}.{name}: got {arguments[name]!r}, but {origin} {value}; leave it unset")


def _check_accelerator(accelerator: Any) -> None:
    there = {"gpu": torch.cuda.is_available() or torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    there["mps"] = torch.backends.mps.is_available()
    if not there.get(accelerator, True):
        raise SettingsError(f"trainer.accelerator: got {accelerator}, but torch finds none here; accepts cpu or auto")
