"""`ArcFaceCLI`: LightningCLI over this package's classes, with sizes filled in from the data and one-line errors."""

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from torch import nn
from torch.optim import lr_scheduler

from arcface_pl.backbones.adapter import embedding_width
from arcface_pl.callbacks.run.defaults import check_trainer
from arcface_pl.checkpoints.network import is_known
from arcface_pl.cli import loss_settings
from arcface_pl.cli.aliases import meant_by
from arcface_pl.cli.building import SHORT_NAMES, build_class, fill, make, parameter_of, parse_settings, without_objects
from arcface_pl.cli.command_line import Flags
from arcface_pl.cli.config import COMPLETE, unknown
from arcface_pl.cli.error_lines import settings_errors
from arcface_pl.cli.layers import import_class, is_class
from arcface_pl.cli.machine import choose_threads
from arcface_pl.cli.parser_errors import PARSER
from arcface_pl.cli.program import program
from arcface_pl.cli.saved_config import SaveConfig
from arcface_pl.cli.trainer_settings import adapt_trainer, check_accelerator, check_barebones, fill_save_dirs
from arcface_pl.cli.values import check_seed, check_trainer_values, check_values
from arcface_pl.data import ImageDataModule
from arcface_pl.data.protocol import complete, fact
from arcface_pl.errors import SettingsError, expected
from arcface_pl.heads import HEADS, deferred_centers
from arcface_pl.training.hyperparameters import plain
from arcface_pl.training.module import ArcFaceModule
from arcface_pl.training.optimizers import build_optimizer

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
            parser_kwargs={"prog": program(command), **PARSER},
            save_config_callback=SaveConfig,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # checkpoints would name classes to import
            run=False,
            args=settings,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the settings that were given; defaults and sizes are not there yet."""
        assert isinstance(args, dict)
        for flag in self.helps:  # the first one ends the process
            name, equals, text = flag.partition("=")
            key = name.removeprefix("--").removesuffix(".help")
            with settings_errors(key):
                parser.parse_args([f"{name}{equals}{SHORT_NAMES.get(key, {}).get(text, text)}"])
        taking = {"trainer": L.Trainer} | ({} if self.subclass_mode_model else {"model": ArcFaceModule})
        for section, cls in taking.items():
            known = [f"{section}.{name}" for name in inspect.signature(cls).parameters]
            typed = [".".join(name.split(".")[:2]).rstrip("+") for name, _ in self.flags]
            for name in [*(f"{section}.{name}" for name in args[section]), *typed]:
                if name.startswith(f"{section}.") and name not in known:
                    meant = meant_by(name.partition(".")[2])
                    raise SettingsError(f"{name}: unknown; did you mean --{meant}?" if meant else unknown(name, known))
        self.config = parse_settings(parser, args, self.flags)
        check_seed(self.config.get("seed_everything"))
        adapt_trainer(self.config.trainer, logs=self.command == "fit")
        check_trainer_values(self.config.trainer)
        check_barebones(self.config.trainer)
        check_accelerator(self.config.trainer.get("accelerator"))
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
                fill("data", config.data, name, trained, "the checkpoint's network")
        self.datamodule = build_class("data", L.LightningDataModule, config.get("data"))
        key = "model.init_args" if "class_path" in config.model else "model"
        if self.command == "fit" and not isinstance(self.datamodule, ImageDataModule):
            complete(self.datamodule, config.get(f"{key}.head.init_args.num_classes"))
        backbone = self._fill_sizes(config.get(key, Namespace()))
        with settings_errors():
            self.config = without_objects(self.parser.parse_object(config))
        check_values("", self.config)
        self._set_threads(self.config.model)
        ready = self.config.clone()
        ready["data"] = self.datamodule
        fill_save_dirs(ready.trainer, required=False)  # not in the saved config, which would overrule a later root
        if backbone is not None:
            ready[f"{key}.backbone"] = backbone
        # A class of the user's may initialize its centers itself
        head_class = import_class(ready.get(f"{key}.head.class_path")) if ready.get(f"{key}.shard_head") else None
        with settings_errors(), deferred_centers() if head_class in HEADS.values() else nullcontext():
            self.config_init = self.parser.instantiate(ready, instantiators=[(partial(make, ready), object, True)])
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
        with settings_errors("trainer", self.config["trainer"].as_dict()):
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
                fill("model.backbone", model.backbone, name, fact(self.datamodule, name), "the data's images")
            backbone = build_class("model.backbone", nn.Module, model.backbone)
        sizes: list[Any] = [fact(self.datamodule, name) for name in ("in_channels", "image_size")]
        if "class_path" in (model.get("head") or ()):
            width = getattr(backbone, "embedding_dim", None)
            if width is None and backbone is not None and all(isinstance(size, int) for size in sizes):
                with settings_errors("model"):
                    width = embedding_width(backbone, *sizes)
            fill("model.head", model.head, "embedding_dim", width, "the backbone's embeddings")
            fill("model.head", model.head, "num_classes", fact(self.datamodule, "num_classes"), "the data")
            for name in ("embedding_dim", "num_classes"):
                if parameter_of(model.head, name) is not None and model.head.get(f"init_args.{name}") is None:
                    origin = "backbone" if name == "embedding_dim" else "data module"
                    fault = f"not set, and the {origin} has no attribute {name}"
                    raise SettingsError(f"model.head.{name}: {fault}; give --model.head.{name}")
            for node in loss_settings.loss_nodes(model):
                fill(loss_settings.NAME, node, "embedding_size", model.head.get("init_args.embedding_dim"), "the head")
                fill(loss_settings.NAME, node, "num_classes", model.head.get("init_args.num_classes"), "the data")
        return backbone

    def _try_factories(self) -> None:
        """Build optimizer and schedule once to see whether they can be: the real call comes after the run has begun."""
        model = self.config.model.get("init_args", self.config.model)
        made: Any = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        if "class_path" in (model.get("optimizer") or ()) and callable(getattr(self.model, "optimizer", None)):
            with settings_errors("model.optimizer", model.optimizer.get("init_args")):
                if isinstance(self.model, ArcFaceModule):
                    made = build_optimizer(
                        self.model.backbone, self.model.head, self.model.optimizer, self.model.head_lr
                    )
                else:
                    made = self.model.optimizer([nn.Parameter(torch.zeros(1))])
        if "class_path" in (model.get("lr_schedule") or ()) and callable(getattr(self.model, "lr_schedule", None)):
            with settings_errors("model.lr_schedule", model.lr_schedule.get("init_args")):
                self.model.lr_schedule(made)
