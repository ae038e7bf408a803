"""The settings of a run: base.yaml, what a checkpoint fixes, and the command line over both."""

import os
from typing import Any

from arcface_pl.checkpoints.find_checkpoint import find_checkpoint
from arcface_pl.checkpoints.network import is_known
from arcface_pl.checkpoints.reading import CheckpointFile
from arcface_pl.checkpoints.runs import NAMES
from arcface_pl.cli.command_line import Flags, Request, last_value
from arcface_pl.cli.config import BASE_CONFIG, read_config
from arcface_pl.cli.inputs import read_model
from arcface_pl.cli.layers import merge, section_of
from arcface_pl.cli.machine import choose_precision
from arcface_pl.cli.own_networks import configured_networks, name_networks
from arcface_pl.cli.resume import class_node, settings_of_checkpoint, settings_of_run
from arcface_pl.errors import SettingsError, expected, printable
from arcface_pl.recognizer.onnx_model import is_onnx
from arcface_pl.recognizer.pretrained import CONFIG
from arcface_pl.training.init_from import description_of

NO_DATA = "a data module: the model does not say what data it was trained on"


def merge_settings(request: Request) -> tuple[dict[str, Any], Flags, CheckpointFile | None]:
    """Merge base.yaml, what the checkpoint fixes, and the command line; read the checkpoint that was asked for."""
    command, base, found = request.command, read_config(BASE_CONFIG), None
    flags: Flags
    settings, flags = request.over(base)
    if request.helps:
        return settings, flags, None
    root = last_value(settings, flags, "trainer.default_root_dir")
    if request.ckpt_path is not None:
        found = _find(command, request.ckpt_path, root)
        settings, flags = over_checkpoint(request, base, found)
    else:
        settings, flags = _over_initial_backbone(request, base, settings, flags)
    teacher = last_value(settings, flags, "model.teacher")
    if command == "fit" and teacher in NAMES:  # a path, before this run is the newest
        path = find_checkpoint(teacher, root, option="model.teacher").path
        flags = _fix(settings, flags, "model.teacher", str(path))
    precision = last_value(settings, flags, "trainer.precision")
    if precision == "auto":
        precision = choose_precision(last_value(settings, flags, "trainer.accelerator"))
    # The parser refuses "auto", also where a flag overrides it
    return settings, _fix(settings, flags, "trainer.precision", precision), found


def _find(command: str, asked: str, root: str | None) -> CheckpointFile:
    if command != "fit":
        if is_onnx(asked):
            remedy = "arcface-pl evaluate and embed take an ONNX file"
            raise SettingsError(expected("--ckpt_path", asked, f"a model that {command} can build", remedy))
        return read_model(asked, root, option="--ckpt_path", mapped=True)
    if os.path.isfile(os.path.join(asked, CONFIG)):
        remedy = f"--model.init_from {printable(asked)} starts a new run from the weights in this folder"
        raise SettingsError(expected("--ckpt_path", asked, "a checkpoint, whose run is resumed", remedy))
    return find_checkpoint(asked, root, option="--ckpt_path", announces=False, mapped=True)


def over_checkpoint(request: Request, base: dict[str, Any], found: CheckpointFile) -> tuple[dict[str, Any], Flags]:
    """Merge the command line over the settings that a checkpoint is resumed or evaluated with."""
    if request.command == "fit":
        layer = settings_of_run(found)
        if "callbacks" in layer.get("trainer", {}):
            base["trainer"]["callbacks"] = []  # those of the run, also where it was started without the base's
    else:
        layer = settings_of_checkpoint(found, other_data=request.names_data)
        if "data" not in layer and not request.names_dataset:
            raise SettingsError(expected("--data", None, NO_DATA))
    settings, flags = request.over(merge(base, layer))
    specs = found.content["hyper_parameters"]
    return settings, name_networks(found.path, specs, settings, flags, configured_networks(found))


def _over_initial_backbone(
    request: Request, base: dict[str, Any], settings: dict[str, Any], flags: Flags
) -> tuple[dict[str, Any], Flags]:
    """Resolve ``model.init_from``: a name becomes a path, and the backbone in a file of ours the one to begin with."""
    source = last_value(settings, flags, "model.init_from")
    if source in (None, "null"):
        return settings, flags
    if source in NAMES:
        root = last_value(settings, flags, "trainer.default_root_dir")
        source = str(find_checkpoint(source, root, option="model.init_from").path)
    spec = description_of(source).get("backbone")
    if is_known("backbone", spec):
        node = class_node("backbone", spec)
        for name in ("in_channels", "image_size"):  # those of the new data
            node["init_args"].pop(name, None)
        settings, flags = request.over(merge(base, {"model": {"backbone": node}}))
    return settings, _fix(settings, flags, "model.init_from", source)


def _fix(settings: dict[str, Any], flags: Flags, name: str, value: Any) -> Flags:
    """Set a setting; returns the flags without those that set it."""
    section, _, last = name.partition(".")
    section_of(settings, section)[last] = value
    return [flag for flag in flags if flag[0] != name]
