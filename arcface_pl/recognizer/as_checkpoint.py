"""What `save_pretrained` and ``export --format safetensors`` wrote, as the checkpoint it came from, for evaluation."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from arcface_pl.checkpoints.reading import CheckpointFile
from arcface_pl.errors import PretrainedError
from arcface_pl.recognizer.pretrained import CONFIG, MANIFEST, WEIGHTS, content_of

EXPORTED = "arcface_pl"
"""Key of an exported file's metadata with the settings that rebuild the model, as JSON."""


def as_checkpoint(path: str | Path) -> CheckpointFile:
    """Read a folder of `save_pretrained`, or an exported safetensors file.

    Args:
        path: The folder or file.

    Returns:
        Its path and what a checkpoint would hold, without the settings of training and of its data.

    Raises:
        PretrainedError: If a file is missing, damaged or of another version, or does not describe a model.
    """
    path = Path(path)
    config, tensors = _read_folder(path) if path.is_dir() else _read_exported(path)
    try:
        return CheckpointFile(path, content_of(config, tensors))
    except (LookupError, TypeError) as error:
        raise PretrainedError(path, f"it does not describe a model ({error})", MANIFEST.remedy) from error


def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = MANIFEST.read(folder / CONFIG)
    return config, MANIFEST.read_tensors(folder / WEIGHTS, config.get("weights_sha256", ""))


def _read_exported(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            config = json.loads((file.metadata() or {})[EXPORTED])
            return config, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, LookupError, ValueError) as error:
        fault = f"it cannot be read, or 'arcface-pl export --format safetensors' did not write it ({error})"
        raise PretrainedError(path, fault, "give the checkpoint") from error
