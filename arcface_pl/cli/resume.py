"""The run that a checkpoint belongs to, and the settings it is resumed and evaluated with."""

from pathlib import Path
from typing import Any

from arcface_pl import data as data_room
from arcface_pl.callbacks.run.resumed_settings import FINE_TUNING
from arcface_pl.checkpoints.network import REGISTRIES
from arcface_pl.checkpoints.reading import CheckpointFile
from arcface_pl.checkpoints.runs import Run, run_of
from arcface_pl.cli.building import class_path
from arcface_pl.cli.config import read_config
from arcface_pl.cli.loss_settings import nodes_of
from arcface_pl.cli.saved_config import first_line
from arcface_pl.errors import CheckpointError
from arcface_pl.training.hyperparameters import LOOP_CLASSES, TEACHING


def resumed_run(found: CheckpointFile) -> Run | None:
    """Return the run to continue; None for a copied checkpoint, or next to a config.yaml that the run did not write."""
    run = run_of(found.path, found.content)
    try:
        if run is None or not (run.folder / "config.yaml").read_text(encoding="utf-8").startswith(
            first_line(run.run_id)
        ):
            return None
    except (OSError, UnicodeDecodeError):
        return None
    return run


def settings_of_run(found: CheckpointFile) -> dict[str, Any]:
    """Return the settings to resume with: of the run's config.yaml, or of a copied checkpoint itself.

    The permission that an earlier resume was given does not count.
    """
    run = resumed_run(found)
    settings = _training_settings(found) if run is None else read_config(run.folder / "config.yaml")
    (settings.get("data") or {}).get("init_args", {}).pop("allow_inexact_resume", None)
    return settings


def _training_settings(found: CheckpointFile) -> dict[str, Any]:
    """Return the settings that a checkpoint holds, as far as they are of this package and torch."""
    saved = found.content["hyper_parameters"]
    settings = settings_of_checkpoint(found, strict=False)
    for role, registry in LOOP_CLASSES.items():
        if role in saved:
            settings["model"][role] = saved[role] and _as_class(found.path, role, registry, saved[role])
    for name in ("head_lr", "freeze", *FINE_TUNING, *TEACHING):
        if name in saved:
            settings["model"][name] = saved[name]
    if saved.get("extra_losses"):
        settings["model"]["extra_losses"] = nodes_of(found.path, saved["extra_losses"])
    return settings


def settings_of_checkpoint(found: CheckpointFile, strict: bool = True, *, other_data: bool = False) -> dict[str, Any]:
    """Return settings for evaluation, from the names and plain values that the checkpoint holds; no config is read.

    Args:
        found: The checkpoint.
        strict: Refuse data modules that are not this package's, rather than leave them to flags and configs. Foreign
            networks have their name as class_path, see `arcface_pl.cli.own_networks.name_networks`.
        other_data: Leave out a data module that is not this package's: flags or configs choose one.
    """
    path, checkpoint = found
    saved, trained_on = checkpoint["hyper_parameters"], checkpoint.get("data") or {}
    modules = {name: value for name, value in vars(data_room).items() if isinstance(value, type)}
    model = {role: class_node(role, saved.get(role)) for role in REGISTRIES}
    settings: dict[str, Any] = {"model": {**model, "channels_last": saved.get("channels_last", True)}}
    if "name" in trained_on and ((strict and not other_data) or _is_known(modules, trained_on)):
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


def class_node(role: str, spec: Any) -> dict[str, Any]:
    """Return a network's spec as a class in a config.

    A class that is not of this package keeps its bare name, without a module that could be imported.
    """
    spec = spec if isinstance(spec, dict) else {}
    name, kwargs = spec.get("name"), spec.get("kwargs")
    cls = REGISTRIES[role].get(name) if isinstance(name, str) else None
    return {
        "class_path": str(name).rpartition(".")[2] if cls is None else class_path(cls),
        "init_args": dict(kwargs) if isinstance(kwargs, dict) else {},
    }


def _as_class(path: Path, role: str, registry: dict[str, Any], spec: Any) -> dict[str, Any]:
    if not _is_known(registry, spec):
        name = spec.get("name") if isinstance(spec, dict) else spec
        raise CheckpointError(path, f"its {role} {name!r} is no class of arcface_pl", f"name yours with --{role}")
    return {"class_path": class_path(registry[spec["name"]]), "init_args": dict(spec["kwargs"])}


def _is_known(registry: dict[str, Any], spec: Any) -> bool:
    return isinstance(spec, dict) and spec.get("name") in [*registry] and isinstance(spec.get("kwargs"), dict)
