"""The settings that a checkpoint's run goes on with, and those it is evaluated with."""

from pathlib import Path
from typing import Any

from arcface_pl import data as data_room
from arcface_pl.backbones import BACKBONES
from arcface_pl.checkpoints.reading import CheckpointFile
from arcface_pl.cli.config import read_config
from arcface_pl.cli.settings import class_path
from arcface_pl.errors import CheckpointError
from arcface_pl.heads import HEADS

__all__ = ["settings_of_checkpoint", "settings_of_run"]


def settings_of_run(checkpoint: Path) -> dict[str, Any]:
    """Return the settings of a checkpoint's run, but not the leave that an earlier resume of it was given."""
    config = checkpoint.parent.parent / "config.yaml"
    settings = read_config(config) if config.is_file() else {}
    (settings.get("data") or {}).get("init_args", {}).pop("allow_inexact_resume", None)
    return settings


def settings_of_checkpoint(found: CheckpointFile) -> dict[str, Any]:
    """Return settings for evaluation, from the names and plain values that the checkpoint holds; no config is read."""
    path, checkpoint = found
    saved, trained_on = checkpoint["hyper_parameters"], checkpoint.get("data") or {}
    modules = {name: value for name, value in vars(data_room).items() if isinstance(value, type)}
    model = {
        role: _as_class(path, role, registry, saved.get(role))
        for role, registry in (("backbone", BACKBONES), ("head", HEADS))
    }
    settings: dict[str, Any] = {"model": {**model, "channels_last": saved.get("channels_last", True)}}
    if trained_on:
        settings["data"] = _as_class(path, "data", modules, trained_on)
        if "dataset" in settings["data"]["init_args"]:
            # What auto became in training: elsewhere it might become another set.
            settings["data"]["init_args"]["dataset"] = trained_on.get("dataset_name", "auto")
        if "mean" in settings["data"]["init_args"] and trained_on.get("normalization"):
            # What was measured in training: of other images it would be another.
            mean, std = trained_on["normalization"]
            settings["data"]["init_args"] |= {"mean": list(mean), "std": list(std)}
        settings["seed_everything"] = trained_on.get("seed", 0)
    return settings


def _as_class(path: Path, role: str, registry: dict[str, Any], spec: Any) -> dict[str, Any]:
    if not isinstance(spec, dict) or spec.get("name") not in [*registry] or not isinstance(spec.get("kwargs"), dict):
        name = spec.get("name") if isinstance(spec, dict) else spec
        raise CheckpointError(path, f"its {role} {name!r} is no class of arcface_pl", f"name yours with --{role}")
    return {"class_path": class_path(registry[spec["name"]]), "init_args": dict(spec["kwargs"])}
