"""CheckpointIO plugin: how a Trainer writes and reads this package's checkpoints."""

import re
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from arcface_pl.checkpoints.atomic import link_or_copy, write_checkpoint, writing
from arcface_pl.checkpoints.reading import CheckpointFile, is_finite, nested, read_checkpoint
from arcface_pl.checkpoints.streamed import streams, write_streamed
from arcface_pl.errors import CheckpointError

_REMEDY = "earlier checkpoints are unchanged: fix this and resume"


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically and only if all weights are finite; reads them without running code from them.

    Args:
        read: A checkpoint that was read already: the first load of its path returns its content, without reading again.

    Attributes:
        mapped: Leave large tensors in the file, see `read_checkpoint`.
    """

    def __init__(self, read: CheckpointFile | None = None) -> None:
        self._read = read
        self.mapped = False

    @classmethod
    def install(cls, strategy: Strategy, read: CheckpointFile | None = None) -> None:
        """Replace Lightning's default plugin of ``strategy``; one that the user chose stays."""
        if type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = cls(read)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; a collective call where it holds `ShardRows`.

        Raises:
            CheckpointError: If a weight is NaN or inf, or the file cannot be written.
        """
        with streams(checkpoint) as blocks, writing(path, CheckpointError, _REMEDY):
            for name, value in nested({key: checkpoint.get(key) for key in ("state_dict", "optimizer_states")}):
                if isinstance(value, Tensor) and not is_finite(value):
                    raise CheckpointError(path, f"not written, since {name} is not finite", "use an earlier one")
            if blocks:
                write_streamed(checkpoint, path, blocks)
            else:
                write_checkpoint(checkpoint, path)

    def link_checkpoint(self, written: Path, path: Path) -> None:
        """Put a checkpoint that was written before at a second path, without writing it again if links are possible.

        Raises:
            CheckpointError: If the file cannot be written.
        """
        with writing(path, CheckpointError, _REMEDY):
            link_or_copy(written, path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU, whatever ``map_location`` and ``weights_only`` are.

        Raises:
            CheckpointError: As `read_checkpoint`, and if no Trainer wrote the file.
        """
        read, self._read = self._read, None
        if read is not None and read.path == Path(path):
            content = read.content
        else:
            content = read_checkpoint(path, mapped=self.mapped)
        version = content.get("pytorch-lightning_version")
        if not isinstance(version, str) or not re.match(r"[0-9]+\.[0-9]+", version):
            raise CheckpointError(path, "it has no pytorch-lightning_version", "use a checkpoint that a Trainer wrote")
        return content
