"""A trained model as a folder: weights as safetensors, settings as JSON, a model card. No pickle, no network access."""

import hashlib
import math
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from arcface_pl import __version__
from arcface_pl.checkpoints.atomic import replacing, writing
from arcface_pl.checkpoints.reading import FORMAT_VERSION, CheckpointFile
from arcface_pl.checkpoints.results import is_ours
from arcface_pl.checkpoints.specs import spec_of
from arcface_pl.errors import CheckpointError, PretrainedError
from arcface_pl.heads import Head
from arcface_pl.recognizer.embedding_space import NoNetwork
from arcface_pl.recognizer.manifest import Manifest
from arcface_pl.recognizer.model_card import model_card
from arcface_pl.recognizer.onnx_model import OnnxBackbone
from arcface_pl.recognizer.trained import TrainedModel

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
MANIFEST = Manifest(
    "arcface_pl model",
    1,
    "config_sha256",
    PretrainedError,
    remedy="write it again with save_pretrained, or use another copy",
    origin="give a folder that save_pretrained wrote",
)


def write_pretrained(model: TrainedModel, folder: str | Path) -> None:
    """Write ``config.json``, ``model.safetensors`` and the model card ``README.md``.

    They are written to a temporary folder, which then replaces ``folder``. A model card that was edited is kept.

    Args:
        model: The model.
        folder: A new or empty folder, or one that this function wrote.

    Raises:
        PretrainedError: If it cannot be written, or holds other files.
    """
    folder = Path(os.path.abspath(folder))  # not resolve(): a link stays a link
    if isinstance(model.backbone, OnnxBackbone):
        raise PretrainedError(folder, "the network is an ONNX file, whose weights cannot be written", "copy that file")
    if isinstance(model.backbone, NoNetwork):
        raise PretrainedError(folder, "there is no network to write", "write the names with save_gallery")
    weights = save(to_tensors(model))
    card = model_card(model).encode()
    digests = {"weights_sha256": _sha256(weights), "card_sha256": _sha256(card)}
    with writing(folder, PretrainedError, "give a writable folder"):
        files = {WEIGHTS: weights, CARD: card, CONFIG: MANIFEST.dump({**to_config(model), **digests})}
        _check_replaceable(folder, set(files))
        files[CARD] = _edited_card(folder) or card
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
            new = Path(place) / "new"
            new.mkdir()
            for name, content in files.items():
                with replacing(new / name) as file:
                    file.write(content)
            if folder.exists():
                folder.rename(Path(place) / "old")
            new.rename(folder)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_replaceable(folder: Path, names: set[str]) -> None:
    """Refuse a folder with anything but a model of ours: other packages use the same three names."""
    if not os.path.lexists(folder):
        return
    found = {each.name for each in folder.iterdir()} if folder.is_dir() else {folder.name}
    mark = f'"format": "{MANIFEST.kind}"'.encode()
    if found and (found - names or not is_ours(folder / CONFIG, mark)):
        raise PretrainedError(folder, "it holds other files", "give a new folder")


def _edited_card(folder: Path) -> bytes | None:
    """Return the model card of an earlier model if it is not the one that was written with it."""
    try:
        card, config = (folder / CARD).read_bytes(), MANIFEST.read(folder / CONFIG)
    except (OSError, PretrainedError):
        return None
    return card if config.get("card_sha256", _sha256(card)) != _sha256(card) else None


def read_pretrained(folder: str | Path, *, backbone: nn.Module | None = None, head: Head | None = None) -> TrainedModel:
    """Read what `write_pretrained` wrote.

    Args:
        folder: The folder.
        backbone: Needed if the model's backbone is not a class of this package.
        head: Needed if the model's head is not a class of this package.

    Returns:
        The model, in evaluation mode.

    Raises:
        PretrainedError: If a file is missing, damaged or of another version, or they do not describe a model.
    """
    path = Path(folder) / CONFIG
    config = MANIFEST.read(path)
    try:
        tensors = MANIFEST.read_tensors(path.with_name(WEIGHTS), config["weights_sha256"])
        return from_config(config, tensors, path, backbone=backbone, head=head)
    except PretrainedError:
        raise
    except CheckpointError as error:
        raise PretrainedError(path, str(error).removeprefix(f"{path}: "), MANIFEST.remedy) from error
    except (LookupError, TypeError) as error:
        raise PretrainedError(path, f"it does not describe a model ({error})", MANIFEST.remedy) from error


def to_tensors(model: TrainedModel) -> dict[str, torch.Tensor]:
    """Return copies of the weights, contiguous, under ``backbone.*`` and ``head.*``."""
    return {
        f"{name}.{key}": tensor.detach().cpu().contiguous().clone()
        for name, part in (("backbone", model.backbone), ("head", model.head))
        for key, tensor in part.state_dict().items()
    }


def to_config(model: TrainedModel) -> dict[str, Any]:
    """Return everything but the weights, as plain values."""
    return {
        "versions": {"arcface_pl": __version__} | {name: version(name) for name in ("torch", "safetensors")},
        "backbone": spec_of(model.backbone),
        "head": spec_of(model.head),
        "preprocessing": model.preprocessor.to_dict(),
        "class_names": model.class_names,
        "dataset_name": model.dataset_name,
        "calibration": None if model.calibration is None else model.calibration.to_dict(),
        # JSON has no NaN
        "metrics": {name: value for name, value in model.metrics.items() if math.isfinite(value)},
    }


def from_config(
    config: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    path: Path,
    *,
    backbone: nn.Module | None = None,
    head: Head | None = None,
) -> TrainedModel:
    """Build the model that `to_config` and `to_tensors` describe.

    Args:
        config: What `to_config` returned.
        tensors: What `to_tensors` returned.
        path: Where they were read from, for messages.
        backbone: As for `read_pretrained`.
        head: As for `read_pretrained`.

    Raises:
        CheckpointError, LookupError, TypeError: If they do not describe a model.
    """
    file = CheckpointFile(path, content_of(config, tensors))
    return TrainedModel.from_checkpoint(file, backbone=backbone, head=head)


def content_of(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return what the checkpoint of a model holds, without the settings of training and of its data.

    Args:
        config: What `to_config` returned.
        tensors: What `to_tensors` returned.

    Raises:
        LookupError, TypeError: If they do not describe a model.
    """
    preprocessing = config["preprocessing"]
    facts = {name: preprocessing[name] for name in ("in_channels", "image_size")}
    facts |= {name: config[name] for name in ("class_names", "dataset_name", "preprocessing")}
    return {
        "format_version": FORMAT_VERSION,
        "pytorch-lightning_version": version("lightning"),
        "hyper_parameters": {role: config[role] for role in ("backbone", "head")},
        "state_dict": tensors,
        "data": {**facts, "normalization": (preprocessing["mean"], preprocessing["std"])},
        "calibration": config["calibration"],
        "validation": config["metrics"],
    }
