"""Which checkpoint a command is given, the settings that its run goes on with, and those it is evaluated with."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from arcface_pl import data as data_room
from arcface_pl.backbones import BACKBONES
from arcface_pl.checkpoint import CheckpointError, read_checkpoint
from arcface_pl.cli.config import SettingsError, read_config
from arcface_pl.cli.settings import class_path
from arcface_pl.heads import HEADS

__all__ = ["find_checkpoint", "settings_of_checkpoint", "settings_of_run"]

NAMES = ("last", "last-good", "best")


def find_checkpoint(asked: str, root: str | None = None, *, option: str = "") -> Path:
    """Find it.

    Args:
        asked: A path; or last, best or last-good, of the newest run that has one: the newest whole checkpoint of it.
        root: Folder that holds lightning_logs/; unset: the current one.
        option: What it was given to, with a space after it, for messages.

    Returns:
        Its path.

    Raises:
        SettingsError: If there is none.
        CheckpointError: If the one that a name stands for is damaged: names the newest that is not.
    """
    if asked not in NAMES:
        if not Path(asked).is_file():
            raise SettingsError(f"{option}{asked}: there is no such file; accepts a path, {', '.join(NAMES)}")
        return Path(asked)
    runs = Path(root or ".") / "lightning_logs"
    found = _newest_first(runs.glob(f"*/checkpoints/{'*' if asked == 'last-good' else asked}.ckpt"))
    if not found:
        wanted = "a checkpoint" if asked == "last-good" else f"a checkpoints/{asked}.ckpt"
        raise SettingsError(f"{option}{asked}: no run under {runs} has {wanted}")
    try:
        read_checkpoint(found[0])
    except CheckpointError as error:
        good = _newest_good(found[0].parent)
        if asked == "last-good" and good is not None:
            return good
        remedy = "no other of its run is whole" if good is None else f"{good} is whole: {option}last-good takes it"
        raise CheckpointError(option + asked, str(error).rpartition(";")[0], remedy) from error
    return found[0]


def settings_of_run(checkpoint: Path) -> dict[str, Any]:
    """Return the settings of a checkpoint's run, but not the leave that an earlier resume of it was given."""
    config = checkpoint.parent.parent / "config.yaml"
    settings = read_config(config) if config.is_file() else {}
    (settings.get("data") or {}).get("init_args", {}).pop("allow_inexact_resume", None)
    return settings


def settings_of_checkpoint(path: Path) -> dict[str, Any]:
    """Return settings for evaluation, from the names and plain values that the checkpoint holds; no config is read."""
    checkpoint = read_checkpoint(path)
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


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _newest_good(folder: Path) -> Path | None:
    for path in _newest_first(folder.glob("*.ckpt")):
        try:
            read_checkpoint(path)
        except CheckpointError:
            continue
        return path
    return None
