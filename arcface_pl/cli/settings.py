"""`ArcFaceCLI`: LightningCLI over this package's classes, with sizes filled in from the data and one-line errors."""

import enum
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from typing import Any

import lightning as L
import torch
from jsonargparse import ArgumentParser, Namespace, set_dumper, set_loader
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch import strategies as lightning_strategies
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import Precision
from torch import nn
from torch.optim import lr_scheduler

from arcface_pl.backbones import BACKBONES
from arcface_pl.backbones.adapter import embedding_width
from arcface_pl.callbacks.run.defaults import check_trainer
from arcface_pl.callbacks.run.private_apis import put_whole_numbers_first
from arcface_pl.checkpoints.network import is_known
from arcface_pl.cli import loss_settings
from arcface_pl.cli.aliases import meant_by
from arcface_pl.cli.config import CLASS_KEYS, COMPLETE, dump_yaml, import_class, is_class, parse_yaml, unknown, walk
from arcface_pl.cli.error_lines import ConstructorError, settings_errors
from arcface_pl.cli.machine import choose_threads
from arcface_pl.cli.program import program
from arcface_pl.cli.report import SaveConfig
from arcface_pl.cli.values import check_seed, check_trainer_values, check_values
from arcface_pl.data import ImageDataModule
from arcface_pl.data.protocol import complete, fact
from arcface_pl.errors import SettingsError, expected
from arcface_pl.heads import HEADS, deferred_centers
from arcface_pl.training.extra_losses import ExtraLoss
from arcface_pl.training.hyperparameters import plain
from arcface_pl.training.module import ArcFaceModule
from arcface_pl.training.optimizers import build_optimizer

Flags = Sequence[tuple[str, str]]

# A Trainer flag that turns something off removes the callbacks that Lightning would otherwise reject.
_NEEDS: dict[str, Any] = {
    "enable_progress_bar": lightning_callbacks.ProgressBar,
    "enable_checkpointing": lightning_callbacks.Checkpoint,
    "logger": (
        lightning_callbacks.LearningRateMonitor,
        lightning_callbacks.DeviceStatsMonitor,
        lightning_callbacks.ThroughputMonitor,
    ),
}

for each in (L.Trainer, lightning_callbacks.ModelPruning, lightning_callbacks.StochasticWeightAveraging):
    put_whole_numbers_first(each)

# Flags and lists in flags follow the same YAML as config files
set_loader("arcface_pl", parse_yaml, exceptions=(ValueError,))
set_dumper("arcface_pl", dump_yaml)
_PARSER: dict[str, Any] = {"exit_on_error": False, "parser_mode": "arcface_pl"}


def class_path(cls: type) -> str:
    """Return the dotted name under which a config names ``cls``."""
    return f"{cls.__module__}.{cls.__qualname__}"


# Short names that jsonargparse cannot resolve by itself, since other classes have them too.
_SHORT_NAMES: dict[str, Mapping[str, str]] = {
    "model.backbone": {name: class_path(cls) for name, cls in BACKBONES.items()},
    "model.lr_schedule": {"ReduceLROnPlateau": "lightning.pytorch.cli.ReduceLROnPlateau"},
}


# Classes of torch that can be built and cannot train a backbone and a head.
_REFUSED: dict[Any, str] = {
    torch.optim.LBFGS: "it takes one group of parameters, and backbone and head are two",
    torch.optim.Muon: "it takes matrices only, and networks have other weights too",
    torch.optim.SparseAdam: "it takes sparse gradients, and these are dense",
    lr_scheduler.ChainedScheduler: "it takes schedulers that have their optimizer, which settings cannot give them",
    lr_scheduler.SequentialLR: "it takes schedulers that have their optimizer, which settings cannot give them",
    lr_scheduler.LRScheduler: "it is abstract",
}


class ArcFaceCLI(LightningCLI):
    """Checks settings and builds data module, model and Trainer from them, each once.

    Args:
        settings: All config files merged, in LightningCLI's schema.
        flags: Full name and text of the flags that come after them.
        helps: Arguments of jsonargparse's help on classes; if there are any, it is printed and the process exits.
        command: The subcommand; only fit logs.

    Raises:
        SettingsError: If a setting is unknown, of the wrong type or out of range, or the device is missing.
        SystemExit: With code 0, after help.
    """

    def __init__(
        self, settings: dict[str, Any], flags: Flags = (), helps: Sequence[str] = (), command: str = "fit"
    ) -> None:
        self.flags, self.helps, self.command = flags, helps, command
        any_model = is_class(settings["model"]) or any(each.startswith("--model.help") for each in helps)
        super().__init__(
            L.LightningModule if any_model else ArcFaceModule,
            L.LightningDataModule,
            subclass_mode_model=any_model,
            subclass_mode_data=True,
            seed_everything_default=0,
            parser_kwargs={"prog": program(command), **_PARSER},
            save_config_callback=SaveConfig,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # checkpoints would name classes to import
            run=False,
            args=settings,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the settings that were given; defaults and sizes are not there yet."""
        assert isinstance(args, dict)
        if self.helps:
            with settings_errors():
                parser.parse_args(self.helps)
        taking = {"trainer": L.Trainer} | ({} if self.subclass_mode_model else {"model": ArcFaceModule})
        for section, cls in taking.items():
            known = [f"{section}.{name}" for name in inspect.signature(cls).parameters]
            typed = [".".join(name.split(".")[:2]).rstrip("+") for name, _ in self.flags]
            for name in [*(f"{section}.{name}" for name in args[section]), *typed]:
                if name.startswith(f"{section}.") and name not in known:
                    meant = meant_by(name.partition(".")[2])
                    raise SettingsError(f"{name}: unknown; did you mean --{meant}?" if meant else unknown(name, known))
        self.config = _parse(parser, args, self.flags)
        check_seed(self.config.get("seed_everything"))
        _adapt_trainer(self.config.trainer, logs=self.command == "fit")
        check_trainer_values(self.config.trainer)
        _check_accelerator(self.config.trainer.get("accelerator"))
        if self.command != "fit":
            self.save_config_callback = None

    def instantiate_classes(self) -> None:
        """Build everything; the Trainer too, so that a missing device shows before any work."""
        config = self.config
        for key in ("optimizer", "lr_schedule") if not self.subclass_mode_model else ():
            cls: Any = import_class((config.model.get(key) or {}).get("class_path"))
            if cls in _REFUSED:
                raise SettingsError(expected(f"model.{key}", cls.__name__, f"another class: {_REFUSED[cls]}"))
        if self.command != "fit" and "class_path" in (config.get("data") or ()):
            for name in ("in_channels", "image_size"):
                trained = config.get(f"model.backbone.init_args.{name}")
                _fill("data", config.data, name, trained, "the checkpoint's network")
        self.datamodule = _build("data", L.LightningDataModule, config.get("data"))
        key = "model.init_args" if "class_path" in config.model else "model"
        if self.command == "fit" and not isinstance(self.datamodule, ImageDataModule):
            complete(self.datamodule, config.get(f"{key}.head.init_args.num_classes"))
        backbone = self._fill_sizes(config.get(key, Namespace()))
        with settings_errors():
            self.config = _plain(self.parser.parse_object(config))
        check_values("", self.config)
        self._set_threads(self.config.model)
        ready = self.config.clone()
        ready["data"] = self.datamodule
        _fill_save_dirs(ready.trainer, required=False)  # not in the saved config, which would overrule a later root
        if backbone is not None:
            ready[f"{key}.backbone"] = backbone
        # A class of the user's may initialize its centers itself
        head_class = import_class(ready.get(f"{key}.head.class_path")) if ready.get(f"{key}.shard_head") else None
        with settings_errors(), deferred_centers() if head_class in HEADS.values() else nullcontext():
            self.config_init = self.parser.instantiate(ready, instantiators=[(partial(_make, ready), object, True)])
        self.model = self.config_init.model
        for role, spec in getattr(self.model, "specs", {}).items():
            node = self.config.get(f"{key}.{role}.init_args")
            if node is not None and not is_known(role, spec):  # a user's class need not store its arguments
                spec["kwargs"] = plain(node.as_dict()) | spec["kwargs"]
        if getattr(self.model, "extra_losses", None) is not None and self.model.loss_specs is None:
            self.model.loss_specs = loss_settings.specs_of(self.config[key])
        self._try_factories()
        self.trainer = self.instantiate_trainer()
        if isinstance(self.model, ArcFaceModule):
            with settings_errors("model"):
                check_trainer(self.model, self.trainer, self.datamodule)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the Trainer."""
        with settings_errors("trainer", inspect.signature(L.Trainer).parameters):
            return super().instantiate_trainer(**kwargs)

    def print_config(self, flags: str) -> None:
        """Print the settings as YAML.

        Args:
            flags: What jsonargparse's --print_config takes, joined by commas: skip_null, skip_default, comments.
        """
        options = {
            "skip_null": "skip_unset",
            "skip_unset": "skip_unset",
            "skip_default": "skip_default",
            "comments": "with_comments",
        }
        chosen = [flag for flag in flags.split(",") if flag]
        if foreign := [flag for flag in chosen if flag not in options]:
            raise SettingsError(expected("--print_config", foreign[0], ", ".join(options)))
        with settings_errors("--print_config"):
            wanted = {"skip_unset": False} | {options[flag]: True for flag in chosen}
            written_by = "yaml" if "with_comments" in wanted else "arcface_pl"
            text = self.parser.dump(self.config, format=written_by, **wanted)
        print(f"{COMPLETE}settings\n{text}", end="")  # noqa: T201

    def print_help(self) -> None:
        """Print every setting: the Trainer's, the module's, and those of the classes that were chosen."""
        self.parser.usage = f"{self.parser.prog} [flags]"  # argparse would list all of them, without their texts
        self.parser.print_help()
        for key in ("model", "model.backbone", "model.head", "model.optimizer", "model.lr_schedule", "data"):
            node = self.config.get(key)
            if node is not None and "class_path" in node:
                print(f"\n{key}: {node.class_path}\n")  # noqa: T201
                try:
                    self.parser.parse_args([f"--{key}.help={node.class_path}"])
                except SystemExit:
                    continue

    def _set_threads(self, model: Namespace) -> None:
        """Fix the number of threads; fit saves it, since results differ in their last bits between numbers."""
        place = model.get("init_args", model)
        threads = place.get("num_threads") or choose_threads(self.config.trainer.devices)
        if self.command == "fit" and "num_threads" in place:
            place["num_threads"] = threads
        else:
            torch.set_num_threads(threads)

    def _fill_sizes(self, model: Namespace) -> nn.Module | None:
        """Fill in what follows from the data and the backbone; return the backbone."""
        backbone = None
        if "class_path" in (model.get("backbone") or ()):
            for name in ("in_channels", "image_size"):
                _fill("model.backbone", model.backbone, name, fact(self.datamodule, name), "the data's images")
            backbone = _build("model.backbone", nn.Module, model.backbone)
        sizes: list[Any] = [fact(self.datamodule, name) for name in ("in_channels", "image_size")]
        if "class_path" in (model.get("head") or ()):
            width = getattr(backbone, "embedding_dim", None)
            if width is None and backbone is not None and all(isinstance(size, int) for size in sizes):
                with settings_errors("model"):
                    width = embedding_width(backbone, *sizes)
            _fill("model.head", model.head, "embedding_dim", width, "the backbone's embeddings")
            _fill("model.head", model.head, "num_classes", fact(self.datamodule, "num_classes"), "the data")
            for name in ("embedding_dim", "num_classes"):
                if _parameter(model.head, name) is not None and model.head.get(f"init_args.{name}") is None:
                    origin = "backbone" if name == "embedding_dim" else "data module"
                    fault = f"not set, and the {origin} has no attribute {name}"
                    raise SettingsError(f"model.head.{name}: {fault}; give --model.head.{name}")
            for node in loss_settings.loss_nodes(model):
                _fill(loss_settings.NAME, node, "embedding_size", model.head.get("init_args.embedding_dim"), "the head")
                _fill(loss_settings.NAME, node, "num_classes", model.head.get("init_args.num_classes"), "the data")
        return backbone

    def _try_factories(self) -> None:
        """Build optimizer and schedule once to see whether they can be: the real call comes after the run has begun."""
        model = self.config.model.get("init_args", self.config.model)
        made: Any = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        if "class_path" in (model.get("optimizer") or ()) and callable(getattr(self.model, "optimizer", None)):
            with settings_errors("model.optimizer", model.optimizer.get("init_args")):
                made = self._try_optimizer()
        if "class_path" in (model.get("lr_schedule") or ()) and callable(getattr(self.model, "lr_schedule", None)):
            with settings_errors("model.lr_schedule", model.lr_schedule.get("init_args")):
                self.model.lr_schedule(made)

    def _try_optimizer(self) -> Any:
        model: Any = self.model
        if not isinstance(model, ArcFaceModule):
            return model.optimizer([nn.Parameter(torch.zeros(1))])
        return build_optimizer(model.backbone, model.head, model.optimizer, model.head_lr)


def build_data(settings: dict[str, Any], flags: Flags, sizes: Mapping[str, int], seed: int | None = None) -> Any:
    """Build a data module for a trained network.

    Args:
        settings: Its class and arguments under ``data``.
        flags: Full name and text of the flags that come after them; only those of ``data`` are read.
        sizes: ``in_channels`` and ``image_size`` of the network, filled in if the class takes them.
        seed: That of the run, which draws the same validation and test images again; filled in likewise.

    Returns:
        The data module.

    Raises:
        SettingsError: If a setting is unknown, of the wrong type or out of range, or its images are of another size.
    """
    parser = LightningArgumentParser(**_PARSER)
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True)
    config = _parse(parser, {"data": settings["data"]}, [flag for flag in flags if flag[0].startswith("data.")])
    for name, value in sizes.items():
        _fill("data", config.data, name, value, "the checkpoint's network")
    if config.data.get("init_args.seed") is None:
        _fill("data", config.data, "seed", seed, "the checkpoint's run")
    datamodule = _build("data", L.LightningDataModule, config.data)
    for name, value in sizes.items():
        found = fact(datamodule, name, value)
        if found != value:
            fault = f"got images with {name} {found}; expected {value}, which the checkpoint's network takes"
            raise SettingsError(f"data: {fault}")
    return datamodule


def build_network(role: str, node: Mapping[str, Any], flags: Flags) -> nn.Module:
    """Build a backbone or head of any class.

    Args:
        role: "backbone" or "head".
        node: Its class and arguments.
        flags: Full name and text of the flags that come after them; only those of this role are read.

    Raises:
        SettingsError: If the class does not exist, or an argument is unknown, missing or of the wrong type.
    """
    key = f"model.{role}"
    parser = ArgumentParser(**_PARSER)
    parser.add_subclass_arguments(nn.Module, key, fail_untyped=False, required=False)
    config = _parse(parser, {"model": {role: node}}, [flag for flag in flags if flag[0].startswith(key)])
    return _build(key, nn.Module, config[key])


def _check_class_nodes(settings: dict[str, Any]) -> None:
    """Refuse what stands next to a class_path but is not init_args, and init_args that are not a mapping."""
    for key, node in walk(settings):
        if not is_class(node):
            continue
        if foreign := [name for name in node if name not in CLASS_KEYS]:
            raise SettingsError(f"{key}.{foreign[0]}: unknown next to class_path; arguments belong under init_args")
        for part in ("init_args", "dict_kwargs"):
            if not isinstance(node.get(part) or {}, dict):
                raise SettingsError(expected(f"{key}.{part}", node[part], "a mapping of settings"))


def _parse(parser: ArgumentParser, settings: dict[str, Any], flags: Flags) -> Namespace:
    """Parse settings and then flags, without defaults and without asking for what is required."""
    settings = deepcopy(settings)
    _check_class_nodes(settings)
    for key, names in _SHORT_NAMES.items():
        parent, _, last = key.rpartition(".")
        node: Any = settings.get(parent)
        node = node.get("init_args") if is_class(node) else node
        for place, name in ((node, last), ((node or {}).get(last), "class_path")):
            if isinstance(place, dict) and isinstance(place.get(name), str):
                place[name] = names.get(place[name], place[name])
    node = settings.get("model")
    node = (node.get("init_args") or {}) if is_class(node) else node
    if isinstance(node, dict) and node.get("extra_losses"):
        node["extra_losses"] = loss_settings.full_entries(node["extra_losses"])
    flags = [_full_loss(*flag) if flag[0].startswith(loss_settings.NAME) else flag for flag in flags]
    words = [f"--{name}={_SHORT_NAMES.get(name, {}).get(text, text)}" for name, text in flags]
    parser.validate = lambda *args, **kwargs: None  # sizes are still missing
    try:
        with settings_errors():
            config = parser.parse_object(settings, defaults=False)
            return parser.parse_args(words, namespace=config, defaults=False)
    finally:
        del parser.validate


def _full_loss(name: str, text: str) -> tuple[str, str]:
    """Write a flag of ``model.extra_losses`` with full names of classes."""
    last = name.removeprefix(loss_settings.NAME).lstrip("+")
    with settings_errors(name):
        value = parse_yaml(text)
    if not last:
        return name, json.dumps(loss_settings.full_entries(value))
    if last in (".loss", ".miner"):
        value = loss_settings.full_name(last[1:], value)
        return name, value if isinstance(value, str) else json.dumps(value)
    return name, text


def _build(key: str, base: type, node: Namespace | None) -> Any:
    """Build the class at ``key``, whose arguments may be incomplete, and nothing else."""
    if node is None:
        raise SettingsError(expected(key, None, "a class"))
    parser = ArgumentParser(**_PARSER)
    parser.add_subclass_arguments(base, key, fail_untyped=False, required=False)
    check_values(key, node)
    place = Namespace()
    place[key] = node
    with settings_errors(key):
        checked = parser.parse_object(place, defaults=False)
        return parser.instantiate(checked, instantiators=[(partial(_make, place), object, True)])[key]


def _make(config: Namespace, cls: type, /, *args: Any, **kwargs: Any) -> Any:
    """Call a class's constructor; what it raises names the setting."""
    try:
        with settings_errors(_place_of(config, cls), kwargs):
            return cls(*args, **kwargs)
    except SettingsError as error:
        raise ConstructorError from error
    except Exception as error:
        if not issubclass(cls, Logger):
            raise
        # Clients of servers raise types of their own, over a missing file or a login
        remedy = " ".join(str(error).split())
        refused = SettingsError(expected("trainer.logger", cls.__name__, "a logger that can be made here", remedy))
        raise ConstructorError from refused


def _place_of(config: Namespace, cls: type) -> str:
    """Return the full name under which ``config`` has ``cls``, without init_args."""
    for key, node in walk(config, Namespace):
        if isinstance(node, Namespace) and import_class(node.get("class_path")) is cls:
            return key
    if cls is ExtraLoss:
        return loss_settings.NAME
    return "model" if issubclass(cls, L.LightningModule) else cls.__name__


def _plain(node: Any) -> Any:
    """Replace defaults that jsonargparse cannot write to a config: enums and devices."""
    if isinstance(node, Namespace):
        for name, value in vars(node).items():
            node[name] = _plain(value)
    elif isinstance(node, list):
        return [_plain(item) for item in node]
    if isinstance(node, enum.Enum):
        return str(node.value) if isinstance(node, str) else node.name
    return str(node) if isinstance(node, torch.device) else node


def _parameter(node: Namespace, name: str) -> inspect.Parameter | None:
    """Return that parameter of the class at ``node``, if it has one."""
    for cls in getattr(import_class(node.class_path), "__mro__", ()):
        parameters = inspect.signature(cls).parameters
        if name in parameters or not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            return parameters.get(name)
    return None


def _fill(key: str, node: Namespace, name: str, value: Any, origin: str) -> None:
    """Set an argument that follows from elsewhere; refuse another value."""
    if value is None or _parameter(node, name) is None:
        return
    given = node.get(f"init_args.{name}")
    if given is None:
        node[f"init_args.{name}"] = value
    elif given != value:
        remedy = "Leave it out; the config.yaml of a run has it too"
        raise SettingsError(expected(f"{key}.{name}", given, f"{value}, that of {origin}", remedy))


def _adapt_trainer(trainer: Namespace, logs: bool) -> None:
    """Remove what does not go with what is turned off, and fill in folders that loggers must be given."""
    if not logs:
        trainer["logger"] = False
    if re.fullmatch(r"-?[0-9]+", str(trainer.get("devices"))):  # jsonargparse takes text for a list of devices, "0,1"
        trainer["devices"] = int(trainer["devices"])
    for flag, kind in _NEEDS.items():
        if trainer.get(flag) is False:
            nodes = trainer.get("callbacks") or []
            trainer["callbacks"] = [each for each in nodes if not _is_a(each, kind)]
    nodes = trainer.get("callbacks") or []
    bars = [each for each in nodes if _is_a(each, lightning_callbacks.ProgressBar)]
    trainer["callbacks"] = [each for each in nodes if each not in bars[:-1]]  # one that is added replaces the base's
    chosen = getattr(lightning_strategies, str(trainer.get("strategy")), import_class(trainer.get("strategy")))
    if isinstance(chosen, type):  # text, to jsonargparse, since a strategy may be text
        trainer["strategy"] = Namespace(class_path=class_path(chosen), init_args=Namespace())
    plugins = trainer.get("plugins") or []
    if any(_is_a(each, Precision) for each in (plugins if isinstance(plugins, list) else [plugins])):
        trainer["precision"] = None  # the plugin has it
    _fill_save_dirs(trainer, required=True)


def _fill_save_dirs(trainer: Namespace, required: bool) -> None:
    """Have loggers write below the Trainer's root: those that need a folder, or those that were given none."""
    loggers = trainer.get("logger")
    for node in loggers if isinstance(loggers, list) else [loggers]:
        parameter = _parameter(node, "save_dir") if isinstance(node, Namespace) else None
        if parameter is None:
            continue
        if node.get("init_args.save_dir") is None and (parameter.default is parameter.empty or not required):
            node["init_args.save_dir"] = str(trainer.get("default_root_dir") or ".")


def _is_a(node: Any, kind: Any) -> bool:
    return isinstance(node, Namespace) and issubclass(import_class(node.class_path) or object, kind)


def _check_accelerator(accelerator: Any) -> None:
    mps, cuda = torch.backends.mps.is_available(), torch.cuda.is_available()
    if not {"gpu": cuda or mps, "cuda": cuda, "mps": mps}.get(accelerator, True):
        raise SettingsError(
            expected("trainer.accelerator", accelerator, "cpu or auto: torch finds no such device here")
        )
