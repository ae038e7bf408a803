"""Config files: strict YAML, found by path or name, in LightningCLI's schema."""

import re
from collections.abc import Iterable
from copy import deepcopy
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from arcface_pl.cli.help import SUBCOMMANDS
from arcface_pl.cli.layers import Whole, merge
from arcface_pl.errors import SettingsError, expected

CONFIGS = Path(__file__).parent.parent / "configs"
BASE_CONFIG = CONFIGS / "base.yaml"
SECTIONS = ("seed_everything", "trainer", "model", "data")
# Beginning of a file that holds all settings, as a run or --print_config writes it.
COMPLETE = "# arcface_pl "
YAML_FILES = (".yaml", ".yml", ".json")
# Places for which a file may stand
_PARTS = (*SECTIONS[1:], "backbone", "head", "optimizer", "lr_schedule", "callbacks", "logger")
# Sections that LightningCLI writes for any module, and where ArcFaceModule has them.
ALIASES = {"optimizer": "optimizer", "lr_scheduler": "lr_schedule"}


class _Loader(yaml.SafeLoader):
    """Plain values only, YAML 1.2 scalars (1e-3 is a number; no and 12:30 are text), no duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                line = node.value[place][0].start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: the key {key!r} stands there twice")
        return super().construct_mapping(node, deep=True)


_Loader.yaml_implicit_resolvers = {}


class _Dumper(yaml.SafeDumper):
    """Quotes text that `parse_yaml` or YAML 1.1 would take for something else."""


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    (
        "float",
        r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
    ),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^<<$", "<"),
):
    for _each in (_Loader, _Dumper):
        _each.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def dump_yaml(data: Any) -> str:
    """Write plain values as YAML that `parse_yaml` reads back equal."""
    return yaml.dump(data, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


@lru_cache(maxsize=64)  # a command reads base.yaml before and after it imports torch
def _load(text: str) -> Any:
    return yaml.load(text, _Loader)  # derives from SafeLoader


def parse_yaml(text: str) -> Any:
    """Parse YAML text into plain values.

    Args:
        text: The text.

    Raises:
        ValueError: If it is not valid YAML, has a duplicate key or asks for an object.
    """
    try:
        return deepcopy(_load(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"not valid YAML ({' '.join(str(error).split())})") from None


def compose_yaml(text: str) -> yaml.Node | None:
    """Parse YAML text into nodes, which know their places in the text; raises ValueError as `parse_yaml` does."""
    try:
        return yaml.compose(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None


def read_yaml(path: str | Path, flag: str) -> Any:
    """Read a YAML file.

    Args:
        path: The file.
        flag: The flag that named it, for the message.

    Raises:
        SettingsError: If it cannot be read or is not valid YAML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = parse_yaml(text)
    except OSError as error:
        raise SettingsError(f"{flag} {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{flag} {path}: cannot be read (not UTF-8 text)") from None
    except ValueError as error:
        raise SettingsError(f"{flag} {path}: {error}") from None
    trainer = content.get("trainer") if isinstance(content, dict) and text.startswith(COMPLETE) else None
    if isinstance(trainer, dict) and isinstance(trainer.get("callbacks"), list):
        trainer["callbacks"] = Whole(trainer["callbacks"])
    return content


def named_configs() -> list[str]:
    """Return the names of the package's own config files, which stand for their paths: ``--config fast``."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def _find_config(path: str | Path) -> Path:
    """Return the file that is meant: a path, or else the name of one of the package's config files."""
    given = Path(path)
    if given.is_file() or given.parent != Path() or given.name == "":
        return given
    stem = given.stem if given.suffix in (".yaml", ".yml") else given.name
    if stem in named_configs():
        return CONFIGS / f"{stem}.yaml"
    if not given.exists():
        raise SettingsError(expected("--config", str(path), f"a file, or one of {', '.join(named_configs())}"))
    return given


def config_text(path: str | Path) -> str:
    """Return the text of a config file that `read_config` can read: of the file, or the path itself if it is YAML."""
    return str(path) if _is_yaml(path) else _find_config(path).read_text(encoding="utf-8")


def _is_yaml(path: str | Path) -> bool:
    """Return whether a config is not named, but given. As jsonargparse has it, a mapping is the config itself."""
    return bool(re.search(r":\s|^\{", str(path)))


def _read_parts(settings: Any, folder: Path) -> None:
    """Read the files that a config names in place of a section or class, relative to its own folder."""
    for name, value in settings.items() if isinstance(settings, dict) else ():
        if name in _PARTS and isinstance(value, str) and value.endswith(YAML_FILES):
            settings[name] = read_yaml(folder / value, name)
        elif name in ("trainer", "model", "init_args"):
            _read_parts(value, folder)


def read_config(path: str | Path, command: str = "fit") -> dict[str, Any]:
    """Read one config file.

    Args:
        path: A file of YAML in LightningCLI's schema, or the YAML itself, with all settings or only those that differ;
            or the name of one of the package's config files, such as fast.
            Sections named after subcommands (``fit: {trainer: ...}``) are read for ``command`` only. A section or class
            may be the path of a file that holds it.
        command: The subcommand.

    Returns:
        Its content: any of `SECTIONS`, and ``ckpt_path``.

    Raises:
        SettingsError: If it cannot be read, is not a mapping, or has an unknown section.
    """
    try:
        content = parse_yaml(str(path)) if _is_yaml(path) else read_yaml(_find_config(path), "--config")
    except ValueError as error:
        raise SettingsError(str(error) if isinstance(error, SettingsError) else f"--config: {error}") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise SettingsError(expected(f"--config {path}", content, "a mapping of settings"))
    if content.keys() & set(SUBCOMMANDS):
        chosen = content.get(command) or {}
        content = {key: value for key, value in content.items() if key not in SUBCOMMANDS} | chosen
    _read_parts(content, Path() if _is_yaml(path) else _find_config(path).parent)
    # What LightningCLI writes for the arguments of the Trainer's methods, where it says no more than the default
    content = {
        key: value
        for key, value in content.items()
        if not (key in ("weights_only", "verbose", "return_predictions", "ckpt_path") and value in (None, True))
    }
    for section, name in ALIASES.items():
        if section in content:
            content = merge(content, {"model": {name: content.pop(section)}})
    known = (*SECTIONS, "ckpt_path")
    if foreign := [key for key in content if key not in known]:
        raise SettingsError(f"--config {path}: {unknown(str(foreign[0]), known)}; accepts {', '.join(known)}")
    # A section with nothing but comments changes nothing
    return {key: value for key, value in content.items() if value is not None or key == "seed_everything"}


def unknown(name: str, known: Iterable[str]) -> str:
    """Word an error about an unknown ``name``, with the nearest of the ``known`` ones."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"{name}: unknown" + (f"; did you mean {near[0]}?" if near else "")
