"""TensorBoard logger with one numbered folder per run: lightning_logs/version_N."""

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from arcface_pl.callbacks.run.private_apis import chosen_version, set_version
from arcface_pl.checkpoints.atomic import claim_folder
from arcface_pl.heads import ShardedHead


class RunLogger(TensorBoardLogger):
    """Writes TensorBoard event files into a new numbered folder for every run.

    The folder is created when ``version`` or ``log_dir`` is first read. With strategy ddp_notebook read one of them
    before ``fit``: forked processes cannot tell the main process what they chose.

    Args:
        save_dir: Folder that holds ``name``; unset: the Trainer's default_root_dir.
        name: Folder of the runs.
        log_graph: Draw the network in TensorBoard's Graphs tab.
    """

    def __init__(self, save_dir: str | None = None, name: str = "lightning_logs", log_graph: bool = True) -> None:
        super().__init__(save_dir or ".", name=name, default_hp_metric=False)
        self.suffix = ""
        self.draws_graph = log_graph

    @property
    def version(self) -> str:
        """Folder of this run, created exclusively: one number past the highest there.

        Only the main process creates it; the others learn it from `run_folder`.
        """
        if chosen_version(self) is None:
            if rank_zero_only.rank:  # type: ignore[attr-defined]
                return ""
            set_version(self, claim_folder(Path(self.root_dir), self.suffix).name)
        return str(chosen_version(self))

    def __getstate__(self) -> dict[str, Any]:
        """Create the folder before spawned processes get a copy each, so that the main process knows it too."""
        _ = self.version
        return super().__getstate__()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write scalars. A constant learning rate is a training curve like others; the epoch is none."""
        tags = {name: f"train/{name}" if name.startswith("lr-") else name for name in metrics if name != "epoch"}
        super().log_metrics({tag: metrics[name] for name, tag in tags.items()}, step)

    @rank_zero_only
    def log_graph(self, model: L.LightningModule, input_array: Tensor | None = None) -> None:  # type: ignore[override]
        """Draw the path from images to logits, once: the Trainer asks again before the test."""
        images = model.example_input_array if input_array is None else input_array
        if not self.draws_graph or not isinstance(images, Tensor):
            return
        network = Network(OrderedDict(backbone=model.backbone, head=model.head))  # type: ignore[arg-type]
        alone = model.head.shapes_only() if isinstance(model.head, ShardedHead) else nullcontext()
        with warnings.catch_warnings(), alone:
            # TensorBoard's graph has no other source than the tracer, which torch deprecates by one warning or another.
            warnings.filterwarnings("ignore", r"`torch\.jit\.trace(_method)?` is deprecated")
            # Backbone and head check shapes in Python. The trace is only drawn, never run on other shapes.
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
            self.experiment.add_graph(network, images.to(next(model.parameters())))
        self.draws_graph = False


class Network(nn.Sequential):
    """Backbone and head, as the Graphs tab names them; the forward of ArcFaceModule ends at embeddings."""
