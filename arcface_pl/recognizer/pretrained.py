"""A trained model as a folder: weights as safetensors, settings as JSON, a model card. No pickle, no network."""

import hashlib
import json
import math
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from arcface_pl.backbones import BACKBONES
from arcface_pl.checkpoints.atomic import replacing
from arcface_pl.checkpoints.specs import build, spec_of
from arcface_pl.errors import UserError
from arcface_pl.evaluation.thresholds import Calibration
from arcface_pl.heads import HEADS
from arcface_pl.preprocessing import Preprocessor
from arcface_pl.recognizer.model_card import model_card
from arcface_pl.recognizer.trained import TrainedModel

__all__ = ["PretrainedError", "read_pretrained", "rebuild", "to_config", "to_tensors", "write_pretrained"]

FORMAT, VERSION = "arcface_pl model", 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


class PretrainedError(UserError):
    """A model's folder that cannot be used: names the file, what is wrong with it and what to do."""

    def __init__(self, path: str | Path, fault: str, remedy: str) -> None:
        super().__init__(f"{path}: {' '.join(fault.split())}; {remedy}")


def write_pretrained(model: TrainedModel, folder: str | Path) -> None:
    """Write ``config.json``, ``model.safetensors`` and the model card ``README.md``.

    They are written to a folder beside it, which then takes its place.

    Args:
        model: What to write.
        folder: A new or empty folder, or one that this function wrote.

    Raises:
        PretrainedError: If it cannot be written, or holds something else.
    """
    folder = Path(os.path.abspath(folder))  # not resolve(): a link stays what it is
    weights = save(to_tensors(model))
    config = {**to_config(model), "weights_sha256": hashlib.sha256(weights).hexdigest()}
    text = json.dumps({**config, "config_sha256": _digest(config)}, indent=1, ensure_ascii=False)
    try:
        if folder.exists() and (not folder.is_dir() or ({each.name for each in folder.iterdir()} - _NAMES)):
            raise PretrainedError(folder, "there is something else", "name a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
            new = Path(place) / "new"
            new.mkdir()
            for name, content in ((WEIGHTS, weights), (CARD, model_card(model).encode()), (CONFIG, text.encode())):
                with replacing(new / name) as file:
                    file.write(content)
            if folder.exists():
                folder.rename(Path(place) / "old")
            new.rename(folder)
    except OSError as error:
        raise PretrainedError(folder, f"cannot be written ({error.strerror})", "name a folder that can be") from error


def read_pretrained(folder: str | Path) -> TrainedModel:
    """Read what `write_pretrained` wrote, from the disk alone.

    Args:
        folder: The folder.

    Returns:
        The model, in evaluation mode.

    Raises:
        PretrainedError: If a file is missing, damaged or of another version.
    """
    path = Path(folder) / CONFIG
    config = _read_config(path)
    weights = path.with_name(WEIGHTS)
    try:
        content = weights.read_bytes()
        if hashlib.sha256(content).hexdigest() != config["weights_sha256"]:
            raise PretrainedError(weights, "it is damaged or of another model (it fails its SHA-256)", _REMEDY)
        return rebuild(config, load(content))
    except PretrainedError:
        raise
    except (OSError, SafetensorError) as error:
        raise PretrainedError(weights, f"it cannot be read ({error})", _REMEDY) from error
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise PretrainedError(path, f"it does not describe a model ({error})", _REMEDY) from error


def to_tensors(model: TrainedModel) -> dict[str, torch.Tensor]:
    """Return the weights by name: ``backbone.*`` and ``head.*``, in rows."""
    return {
        f"{name}.{key}": tensor.detach().cpu().contiguous().clone()
        for name, part in (("backbone", model.backbone), ("head", model.head))
        for key, tensor in part.state_dict().items()
    }


def to_config(model: TrainedModel) -> dict[str, Any]:
    """Return everything but the weights, as plain values."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "versions": {name: version(name) for name in ("arcface_pl", "torch", "safetensors")},
        "backbone": spec_of(model.backbone),
        "head": spec_of(model.head),
        "preprocessing": model.preprocessor.to_dict(),
        "class_names": model.class_names,
        "dataset_name": model.dataset_name,
        "calibration": None if model.calibration is None else model.calibration.to_dict(),
        # JSON has no NaN: what was not measured, or came out as no number, is left out.
        "metrics": {name: value for name, value in model.metrics.items() if math.isfinite(value)},
    }


_NAMES = {CONFIG, WEIGHTS, CARD}
_REMEDY = "write it again with save_pretrained, or take another copy"


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PretrainedError(path, "there is no such file", "name a folder that save_pretrained wrote")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PretrainedError(path, f"it is damaged or no JSON ({error})", _REMEDY) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise PretrainedError(path, "it is no model of arcface_pl", "name a folder that save_pretrained wrote")
    if config.get("version") != VERSION:
        fault = f"it has version {config.get('version')!r}, and this arcface_pl reads {VERSION}"
        raise PretrainedError(path, fault, "use the arcface_pl that wrote it")
    if config.pop("config_sha256", None) != _digest(config):
        raise PretrainedError(path, "it is damaged (it fails its SHA-256)", _REMEDY)
    return config


def rebuild(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> TrainedModel:
    """Make the model that `to_config` and `to_tensors` describe.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: If they do not describe one.
    """
    model = TrainedModel(
        build("backbone", BACKBONES, config["backbone"]),
        build("head", HEADS, config["head"]),
        Preprocessor.from_dict(config["preprocessing"]),
        list(config["class_names"]),
        config["dataset_name"],
        None if config["calibration"] is None else Calibration.from_dict(config["calibration"]),
        dict(config["metrics"]),
    )
    model.load_weights(tensors)
    return model


def _digest(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
