"""Layers of settings: the complete base, overlays that hold differences only, then flags; the later one wins.

The layers are plain dictionaries in LightningCLI's schema (``seed_everything / trainer / model / data``). They are
merged here, not by the argument parser, because two things must hold that it does not promise: a class chosen in a
later layer starts from its own defaults, and callbacks in a later layer add to the base's instead of replacing them.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from arcface_pl.cli.yaml_text import parse_yaml, read_yaml
from arcface_pl.errors import SettingsError

__all__ = [
    "BASE_CONFIG",
    "Request",
    "apply_flag",
    "import_class",
    "merge",
    "parse_command_line",
    "read_config",
]

BASE_CONFIG = Path(__file__).parent.parent / "configs" / "base.yaml"
SECTIONS = ("seed_everything", "trainer", "model", "data")
CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}
SWITCHES = ("print_config", "help", "help_all", "traceback")


def read_config(path: str | Path) -> dict[str, Any]:
    """Read one config file.

    Args:
        path: A YAML file in LightningCLI's schema, complete or with differences only.

    Returns:
        Its content.

    Raises:
        SettingsError: If it cannot be read, is no YAML mapping, repeats a key, or has a section that is not one of
            seed_everything, trainer, model, data.
    """
    content = read_yaml(path, "--config")
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: holds a {type(content).__name__}, but a config is a mapping of settings")
    unknown = [key for key in content if key not in SECTIONS]
    if unknown:
        raise SettingsError(f"{path}: unknown key {unknown[0]!r}; accepts {', '.join(SECTIONS)}")
    # A section whose lines are all comments differs in nothing
    return {key: value for key, value in content.items() if value is not None or key == "seed_everything"}


def _is_class(node: Any) -> bool:
    return isinstance(node, dict) and "class_path" in node


def _same_class(one: str, other: str) -> bool:
    if not isinstance(one, str) or not isinstance(other, str):
        return False  # whoever looks the class up says what is wrong with its name
    if one == other or one.rpartition(".")[2] != other.rpartition(".")[2]:
        return one == other
    # One class has several names: arcface_pl.heads.ArcFaceHead is arcface_pl.heads.arcface.ArcFaceHead.
    return "." not in one or "." not in other or import_class(one) is import_class(other)


def import_class(path: str) -> type | None:
    """Return the class with this dotted name, or None where there is none."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name) if module else None
    except (ImportError, AttributeError):
        return None
    return found if isinstance(found, type) else None


def merge(base: Any, overlay: Any, key: str = "") -> Any:
    """Lay ``overlay`` over ``base``; neither is changed.

    A class in the overlay that is not the base's starts from its own defaults. Callbacks are merged by class: one that
    the base has is changed, another is added.

    Args:
        base: Settings so far.
        overlay: Differences.
        key: Full name of the place, such as "trainer.callbacks".

    Returns:
        The merged settings.
    """
    if key == "trainer.callbacks" and isinstance(overlay, list | dict | str):
        return _merge_callbacks(base or [], overlay if isinstance(overlay, list) else [overlay])
    if _is_class(base) and isinstance(overlay, str):
        overlay = {"class_path": overlay}
    if not isinstance(base, dict) or not isinstance(overlay, dict):
        return deepcopy(overlay)
    if _is_class(base):
        if _is_class(overlay) and not _same_class(base["class_path"], overlay["class_path"]):
            return deepcopy(overlay)
        if not overlay.keys() <= CLASS_KEYS and not _is_class(overlay):
            overlay = {"init_args": overlay}
    merged = deepcopy(base)
    for name, value in overlay.items():
        # `callbacks+` is LightningCLI's way to say "add", which is what happens here in any case.
        name = "callbacks" if key == "trainer" and name == "callbacks+" else name
        merged[name] = merge(base.get(name), value, f"{key}.{name}" if key else str(name))
    return merged


def _merge_callbacks(base: list[Any], overlay: list[Any]) -> list[Any]:
    merged = deepcopy(base)
    for entry in ({"class_path": item} if isinstance(item, str) else item for item in overlay):
        if not _is_class(entry):
            raise SettingsError(f"trainer.callbacks: got {entry!r}, but each one takes a class_path (and init_args)")
        for place, present in enumerate(merged):
            if _same_class(present["class_path"], entry["class_path"]):
                merged[place] = merge(present, entry)
                break
        else:
            merged.append(deepcopy(entry))
    return merged


def apply_flag(settings: dict[str, Any], name: str, text: str) -> dict[str, Any]:
    """Lay one flag over the settings.

    Args:
        settings: Settings so far.
        name: Full name with dots, such as "model.head.margin".
        text: Its value as typed; read as YAML.

    Returns:
        The settings with that value.

    Raises:
        SettingsError: If something on the way is unset or holds no settings of its own.
    """
    overlay: Any = parse_yaml(text, f"--{name}")
    parts = name.split(".")
    node: Any = settings
    for depth, part in enumerate(parts[:-1]):
        node = node.get("init_args", {}) if _is_class(node) and part not in CLASS_KEYS else node
        node = node.get(part, {}) if isinstance(node, dict) else node
        if not isinstance(node, dict):
            raise SettingsError(
                f"--{name}: {'.'.join(parts[: depth + 1])} is {node!r} and has no setting {parts[-1]!r}"
            )
    for part in reversed(parts):
        overlay = {part: overlay}
    return merge(settings, overlay)


@dataclass
class Request:
    """A command line, sorted: config files, flags for settings, and what the command itself is asked."""

    configs: list[str] = field(default_factory=list)
    flags: list[tuple[str, str]] = field(default_factory=list)
    ckpt_path: str | None = None
    switches: set[str] = field(default_factory=set)

    def layers_over(self, base: dict[str, Any]) -> dict[str, Any]:
        """Return ``base`` with the config files and then the flags laid over it."""
        settings = base
        for path in self.configs:
            settings = merge(settings, read_config(path))
        # A class comes before its own settings, in whichever order they were typed.
        for name, text in sorted(self.flags, key=lambda flag: flag[0].count(".")):
            settings = apply_flag(settings, name, text)
        for name in ("trainer", "model"):
            if not isinstance(settings[name], dict):
                raise SettingsError(f"{name}: got {settings[name]!r}, but it accepts a mapping of settings")
        return settings


def parse_command_line(args: Sequence[str], trainer_arguments: Iterable[str]) -> Request:
    """Sort a command line; nothing is checked yet but its form.

    Args:
        args: What follows the subcommand.
        trainer_arguments: Names that stand for ``trainer.NAME`` when typed bare.

    Returns:
        The sorted command line.

    Raises:
        SettingsError: If a flag is unknown or has no value, or a word stands alone.
    """
    trainer_arguments = set(trainer_arguments)
    request = Request()
    words = iter(args)
    for word in words:
        word = {"-h": "--help", "-c": "--config"}.get(word, word)
        if not word.startswith("--"):
            raise SettingsError(f"{word!r}: a value without a flag; flags look like --max_epochs 3")
        name, equals, value = word[2:].partition("=")
        if name in SWITCHES and not equals:
            request.switches.add(name)
            continue
        if name == "allow_inexact_resume":
            request.flags.append((f"data.{name}", value if equals else "true"))
            continue
        root = name.split(".")[0].rstrip("+")
        if root in trainer_arguments:
            name = f"trainer.{name}"
        elif root not in SECTIONS and name not in ("config", "ckpt_path"):
            raise SettingsError(unknown(f"--{name}", [f"--{known}" for known in _known_flags(trainer_arguments)]))
        if not equals:
            following = next(words, None)
            value = "" if following is None or following.startswith("--") else following
        if not value.strip():
            raise SettingsError(f"--{name}: needs a value (null for none)")
        if name == "config":
            request.configs.append(value)
        elif name == "ckpt_path":
            request.ckpt_path = value
        else:
            request.flags.append((name, value))
    return request


def _known_flags(trainer_arguments: Iterable[str]) -> list[str]:
    return [*SECTIONS, "config", "ckpt_path", "allow_inexact_resume", *SWITCHES, *trainer_arguments]


def unknown(name: str, known: Iterable[str]) -> str:
    """Say that ``name`` is unknown, and which known name is nearest."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"{name}: unknown" + (f"; did you mean {near[0]}?" if near else "; --help_all lists every setting")
