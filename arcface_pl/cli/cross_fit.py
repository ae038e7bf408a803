"""``inspect --folds``: new networks with the settings of a checkpoint's run, for judging images they have not seen."""

import logging
from typing import TYPE_CHECKING, Any

from rich.console import Console
from torch import nn

from arcface_pl.callbacks.run.signals import end_at_once, restore
from arcface_pl.checkpoints.reading import CheckpointFile
from arcface_pl.cli.building import build_data
from arcface_pl.cli.command_line import Request
from arcface_pl.cli.config import BASE_CONFIG, read_config
from arcface_pl.cli.layers import is_class, section_of
from arcface_pl.cli.machine import prepare_process
from arcface_pl.cli.run_settings import over_checkpoint
from arcface_pl.cli.settings import ArcFaceCLI
from arcface_pl.data import ImageDataModule
from arcface_pl.errors import SettingsError, expected

if TYPE_CHECKING:
    from arcface_pl.heads import Head

_QUIET: dict[str, Any] = {
    "logger": False,
    "callbacks": [],
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "limit_val_batches": 0,
    "devices": 1,
    "strategy": "auto",
}


class Refit:
    """Trains new networks as a checkpoint's run did; without its callbacks, validation and logs.

    Args:
        checkpoint: Its run's settings are used.
        request: Flags that begin with ``--data``, which change them.
        max_epochs: Epochs of each network; None for those of the run.
        accelerator: The Trainer's.

    Raises:
        SettingsError: If the settings cannot be used, or the data cannot be trained on in folds.
    """

    def __init__(self, checkpoint: CheckpointFile, request: Request, max_epochs: int | None, accelerator: str) -> None:
        self.settings, self.flags = over_checkpoint(request, read_config(BASE_CONFIG), checkpoint)
        self.settings["trainer"] |= {**_QUIET, "accelerator": accelerator}
        if max_epochs is not None:
            self.settings["trainer"] |= {"max_epochs": max_epochs, "min_epochs": None, "max_steps": -1}
        for role, sizes in {"backbone": ("in_channels", "image_size"), "head": ("num_classes",)}.items():
            node: Any = section_of(self.settings, "model").get(role)
            for name in sizes if is_class(node) else ():  # those of the data, which may be others
                (node.get("init_args") or {}).pop(name, None)
        prepare_process(logging.ERROR)
        self.num_trained = 0
        data = build_data(self.settings, self.flags, {})  # before a head is built, which needs its classes
        if not isinstance(data, ImageDataModule):
            accepted = "an ImageDataModule with --folds, which divides its training images"
            raise SettingsError(expected("--data", type(data).__name__, accepted))
        self.data = self._build().datamodule
        self.data.prepare_data()
        self.data.setup("fit")

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.settings.get("seed_everything") or 0)

    def __call__(self, data: ImageDataModule) -> "tuple[nn.Module, Head]":
        """Train a new network on ``data``; returns backbone and head."""
        cli = self._build()
        self.num_trained += 1
        Console(stderr=True).print(f"network {self.num_trained}: training on {data.num_train:,} images")
        handlers = end_at_once()  # Lightning's own would end the command with code 0
        try:
            cli.trainer.fit(cli.model, datamodule=data)
        finally:
            restore(handlers)
        return cli.model.backbone, cli.model.head

    def _build(self) -> Any:
        return ArcFaceCLI(self.settings, self.flags, command="inspect")  # which leaves no run behind
