"""A user's own backbone and head: the class is taken from flags or the run's config, never from a checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from arcface_pl.checkpoints.network import REGISTRIES, is_known
from arcface_pl.checkpoints.reading import CheckpointFile
from arcface_pl.cli.building import build_network
from arcface_pl.cli.command_line import parse_command_line
from arcface_pl.cli.config import parse_yaml, read_config
from arcface_pl.cli.layers import is_class, merge, same_class, section_of
from arcface_pl.cli.resume import class_node, resumed_run
from arcface_pl.errors import SettingsError, printable

Flags = Sequence[tuple[str, str]]


def build_networks(
    origin: str | Path, specs: Mapping[str, Any], words: Sequence[str], configured: Mapping[str, Any]
) -> dict[str, nn.Module]:
    """Build those networks of a trained model that are not of this package, or that flags name.

    Args:
        origin: The checkpoint or folder, for messages.
        specs: Its specs of ``backbone`` and ``head``.
        words: Flags below ``--model.backbone`` and ``--model.head``.
        configured: What `configured_networks` returned.

    Returns:
        ``backbone`` and ``head``, as far as they are built here.

    Raises:
        SettingsError: If no class is named for one, or it cannot be built.
    """
    request = parse_command_line("test", words)
    flagged = {".".join(name.split(".")[:2]) for name, _ in request.flags}
    roles = [role for role in REGISTRIES if f"model.{role}" in flagged or not is_known(role, specs.get(role))]
    nodes = {role: class_node(role, specs.get(role)) for role in roles}
    settings, given = request.over({"trainer": {}, "model": nodes})
    flags = name_networks(origin, specs, settings, given, configured)
    return {role: build_network(role, settings["model"][role], flags) for role in roles}


def configured_networks(found: CheckpointFile) -> Mapping[str, Any]:
    """Return the settings of the networks in the config of a checkpoint's run, if the checkpoint lies there."""
    run = resumed_run(found)
    settings = {} if run is None else read_config(run.folder / "config.yaml")
    return section_of(settings, "model") if settings.get("model") else {}


def name_networks(
    origin: str | Path,
    specs: Mapping[str, Any],
    settings: dict[str, Any],
    flags: Flags,
    configured: Mapping[str, Any],
) -> list[tuple[str, str]]:
    """Give each foreign network the class that flags, or else the run's config, name.

    Args:
        origin: The checkpoint or folder, for messages.
        specs: Its specs of ``backbone`` and ``head``.
        settings: Merged settings, changed in place; a foreign network has its bare name as class_path.
        flags: Full name and text.
        configured: What `configured_networks` returned.

    Returns:
        The flags that are left.

    Raises:
        SettingsError: If nothing names it: names the flag that does.
    """
    model = section_of(settings, "model")
    left = list(flags)
    for role in REGISTRIES:
        node, spec = model.get(role) or {}, specs.get(role)
        foreign = class_node(role, spec)["class_path"]
        if is_known(role, spec) or not is_class(node) or node["class_path"] != foreign:
            continue
        named = [parse_yaml(text) for name, text in left if name == f"model.{role}"]
        ours: Any = configured.get(role)
        if named:
            left = [flag for flag in left if flag[0] != f"model.{role}"]
            chosen = named[-1] if is_class(named[-1]) else {"class_path": named[-1]}
            model[role] = merge(merge(node, ours) if is_class(ours) else node, chosen)
        elif is_class(ours) and same_class(ours["class_path"], foreign):
            model[role] = merge(node, ours)
        else:
            name = printable(foreign)
            fault = f"not set; {origin} was trained with {name}, which is not a class of arcface_pl"
            raise SettingsError(f"--model.{role}: {fault}. Name the class: --model.{role} my_package.{name}")
    return left
