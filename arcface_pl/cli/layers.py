"""Nested settings and the classes in them, and how one layer is merged over another.

Layers are merged here and not by jsonargparse, which lacks two things. It keeps the arguments of a class that a later
layer replaces wherever the new class accepts them, so that ArcFace's margin of 0.5 would become CosFace's. And a later
list of callbacks would replace the base's instead of adding to it.
"""

from collections.abc import Iterator
from copy import deepcopy
from importlib import import_module
from typing import Any

from arcface_pl.errors import SettingsError, expected

CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}
MODULE = "arcface_pl.training.module.ArcFaceModule"


class Whole(list):
    """Callbacks of a config that is complete: they replace those of earlier layers."""


def is_class(node: Any) -> bool:
    """Return whether ``node`` is a class in a config: a mapping with a class_path."""
    return isinstance(node, dict) and "class_path" in node


def walk(node: Any, mapping: type = dict, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full name, without init_args, and the value of everything in nested settings, containers first.

    Args:
        node: The settings.
        mapping: Type of what maps names to settings: dict, or jsonargparse's Namespace. Others are values.
        key: Full name of ``node``.
    """
    yield key, node
    if isinstance(node, list | tuple):
        for item in node:
            yield from walk(item, mapping, key)
    elif isinstance(node, mapping):
        for name, value in (node if isinstance(node, dict) else vars(node)).items():
            yield from walk(value, mapping, key if name == "init_args" else f"{key}.{name}" if key else str(name))


def section_of(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a section of settings, to be read or changed; of a class, its arguments."""
    section: dict[str, Any] = settings[name]
    if not is_class(section):
        return section
    section["init_args"] = arguments = section.get("init_args") or {}
    return arguments


def each_setting(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full name and the value of each setting of a config; a class's value is its name.

    Args:
        node: The settings.
        place: Full name of ``node``.
    """
    if not isinstance(node, dict):
        yield place, node
        return
    if is_class(node):
        yield place, node["class_path"]
    for name, value in ((node.get("init_args") or {}) if is_class(node) else node).items():
        yield from each_setting(value, f"{place}.{name}".removeprefix("."))


def import_class(path: Any) -> type | None:
    """Import the class with this dotted name; None if there is none."""
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    try:
        found = getattr(import_module(module), name) if module else None
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) else None


def same_class(one: Any, other: Any) -> bool:
    """Return whether two class paths, short or full, name one class."""
    if not isinstance(one, str) or not isinstance(other, str) or one == other:
        return one == other
    if one.rpartition(".")[2] != other.rpartition(".")[2]:
        return False
    # arcface_pl.heads.ArcFaceHead is arcface_pl.heads.arcface.ArcFaceHead
    return "." not in one or "." not in other or import_class(one) is import_class(other)


def merge(base: Any, overlay: Any, key: str = "") -> Any:
    """Merge ``overlay`` into a copy of ``base``.

    A class in the overlay that differs from the base's starts from its own defaults, except that a subclass of
    ArcFaceModule keeps those settings of ``model`` that it takes. Callbacks are merged by class: one that the base
    has is modified, any other is added; those of a complete config, as a run saves it, replace the base's, as do null
    and an empty list.

    Args:
        base: Settings so far.
        overlay: Differences.
        key: Full name of the place, such as "trainer.callbacks".

    Returns:
        The merged settings; neither argument is changed.
    """
    if isinstance(overlay, Whole):
        return deepcopy([*overlay])
    if key == "trainer.callbacks" and overlay:
        return _merge_callbacks(base or [], overlay if isinstance(overlay, list) else [overlay])
    if isinstance(overlay, str) and (is_class(base) or key == "model"):
        overlay = {"class_path": overlay}
    if key == "model" and is_class(overlay) and not is_class(base):
        chosen = overlay["class_path"]
        if chosen in ("ArcFaceModule", "arcface_pl.ArcFaceModule", MODULE):
            overlay = overlay.get("init_args") or {}
        else:
            base = {"class_path": chosen, "init_args": _accepted(chosen, base)} if _is_arcface_module(chosen) else None
    if not isinstance(base, dict) or not isinstance(overlay, dict):
        return deepcopy(overlay)
    if is_class(base):
        if is_class(overlay) and not same_class(base["class_path"], overlay["class_path"]):
            return deepcopy(overlay)
        if not is_class(overlay) and not overlay.keys() <= CLASS_KEYS:
            overlay = {"init_args": overlay}
    merged = deepcopy(base)
    for name, value in overlay.items():
        name = "callbacks" if key == "trainer" and name == "callbacks+" else name  # the base's are added to anyway
        place = key if name == "init_args" else f"{key}.{name}" if key else str(name)
        merged[name] = merge(base.get(name), value, place)
    return merged


def _is_arcface_module(path: Any) -> bool:
    cls = import_class(path)
    return cls is not None and issubclass(cls, import_class(MODULE) or ())


def _accepted(path: str, settings: Any) -> Any:
    """Return those settings that a class takes, through its ``**kwargs`` too."""
    from jsonargparse import ArgumentParser  # takes a while to import, for a case that is rare

    taken = ArgumentParser().add_class_arguments(import_class(path), "model", fail_untyped=False)
    return {name: value for name, value in (settings or {}).items() if f"model.{name}" in taken}


def _merge_callbacks(base: list[Any], overlay: list[Any]) -> list[Any]:
    merged = deepcopy(base)
    for entry in ({"class_path": item} if isinstance(item, str) else item for item in overlay):
        if not is_class(entry):
            raise SettingsError(expected("trainer.callbacks", entry, "classes: a name, or class_path and init_args"))
        place = next((i for i, old in enumerate(merged) if same_class(old["class_path"], entry["class_path"])), None)
        if place is None:
            merged.append(deepcopy(entry))
        else:
            merged[place] = merge(merged[place], entry)
    return merged
