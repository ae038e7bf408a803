"""How a Trainer writes and reads the checkpoints of this package's modules."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy

from arcface_pl.checkpoints.atomic import write_checkpoint
from arcface_pl.checkpoints.reading import read_checkpoint
from arcface_pl.errors import CheckpointError

__all__ = ["DurableCheckpointIO"]


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, with its digest, and only finite weights; reads it safely."""

    @classmethod
    def install(cls, strategy: Strategy) -> None:
        """Take the place of Lightning's own; a plugin that the user chose stays."""
        if type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = cls()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write.

        Raises:
            CheckpointError: If a weight is not finite, or the file cannot be written.
        """
        for section in ("state_dict", "optimizer_states"):
            for name, tensor in _tensors(checkpoint.get(section, {}), section):
                if not torch.isfinite(tensor).all():
                    raise CheckpointError(path, f"not written, since {name} is not finite", "use an earlier one")
        try:
            write_checkpoint(checkpoint, path)
        except OSError as error:
            raise CheckpointError(
                path, f"cannot be written ({error.strerror})", "earlier ones are untouched: resume when that is mended"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read; never more than tensors and plain values.

        Raises:
            CheckpointError: As `read_checkpoint`, and if it is not the Trainer's.
        """
        content = read_checkpoint(path)
        version = content.get("pytorch-lightning_version")
        if not isinstance(version, str) or not re.match(r"[0-9]+\.[0-9]+", version):
            raise CheckpointError(path, "it has no pytorch-lightning_version", "give one that a Trainer has written")
        return content


def _tensors(node: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(node, torch.Tensor):
        if node.is_floating_point():
            yield name, node
    elif isinstance(node, dict | list | tuple):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _tensors(value, f"{name}.{key}")
