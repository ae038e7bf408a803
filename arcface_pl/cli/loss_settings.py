"""The setting ``model.extra_losses``: short names of pytorch-metric-learning, sizes, and entries of checkpoints."""

from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from jsonargparse import Namespace

from arcface_pl.cli.layers import import_class, is_class
from arcface_pl.errors import CheckpointError, SettingsError, expected
from arcface_pl.training.hyperparameters import plain
from arcface_pl.training.loss_specs import PACKAGE, known_class

NAME = "model.extra_losses"
_PARTS = {"loss": "losses", "miner": "miners"}


def full_entries(value: Any) -> Any:
    """Write the value of ``model.extra_losses`` as jsonargparse takes it: entries with full names of classes.

    Args:
        value: Entries, or one: a mapping with ``loss``, ``weight`` and ``miner``, or the loss alone.

    Raises:
        SettingsError: If a name is unknown, or pytorch-metric-learning is needed and missing.
    """
    if isinstance(value, list):
        return [full_entries(each) for each in value]
    if isinstance(value, str) or is_class(value):
        value = {"loss": value}
    if not isinstance(value, dict):
        return value
    return {name: full_name(name, each) if name in _PARTS else each for name, each in value.items()}


def full_name(part: str, node: Any) -> Any:
    """Return a class, by name or with its arguments, with the full name of its class.

    Args:
        part: "loss" or "miner".
        node: The class in a config.

    Raises:
        SettingsError: As `full_entries`.
    """
    if is_class(node):
        return {**node, "class_path": full_name(part, node["class_path"])}
    if not isinstance(node, str):
        return node
    if "." in node and not node.startswith(f"{PACKAGE}."):
        return _importable(part, node)
    if find_spec(PACKAGE) is None:
        remedy = "Install it: pip install 'arcface_pl[pml]'"
        accepted = "a class or function by its full name; without dots, one of pytorch-metric-learning"
        raise SettingsError(expected(f"{NAME}.{part}", node, accepted, remedy))
    if "." in node:
        return _importable(part, node)
    module = import_module(f"{PACKAGE}.{_PARTS[part]}")
    if not isinstance(getattr(module, node, None), type):
        near = get_close_matches(node, [name for name, each in vars(module).items() if isinstance(each, type)], n=1)
        remedy = f"Did you mean {near[0]}?" if near else ""
        accepted = f"a {part} of pytorch-metric-learning by name, or the full name of a class or function"
        raise SettingsError(expected(f"{NAME}.{part}", node, accepted, remedy))
    return f"{module.__name__}.{node}"


def _importable(part: str, name: str) -> str:
    module, _, last = name.rpartition(".")
    try:
        getattr(import_module(module), last)
    except (ImportError, AttributeError, ValueError) as error:
        accepted = "the full name of a class or function that can be imported"
        raise SettingsError(expected(f"{NAME}.{part}", name, accepted, f"Here: {error}")) from None
    return name


def loss_nodes(model: Namespace) -> list[Namespace]:
    """Return the classes of the losses in the parsed settings of a model."""
    entries = model.get("extra_losses") or []
    entries = entries if isinstance(entries, list) else [entries]
    found = [entry.get("loss") for entry in entries if isinstance(entry, Namespace)]
    return [node for node in found if isinstance(node, Namespace) and "class_path" in node]


def specs_of(model: Namespace) -> list[dict[str, Any]] | None:
    """Return the settings as a checkpoint holds them; None where a class is not of pytorch-metric-learning."""
    entries = model.get("extra_losses") or []
    specs = []
    for entry in entries if isinstance(entries, list) else [entries]:
        parts = [entry.loss] if entry.miner is None else [entry.loss, entry.miner]
        for part in parts:
            cls = import_class(part.class_path) if isinstance(part, Namespace) else None
            if cls is None or known_class(cls.__name__) is not cls:
                return None
        written = plain(entry.as_dict())
        specs.append({**written["loss"], "weight": float(entry.weight), "miner": written["miner"]})
    return specs


def nodes_of(path: Any, specs: Any) -> list[dict[str, Any]]:
    """Return the entries of a checkpoint as a config has them.

    Args:
        path: The checkpoint, for the message.
        specs: Its ``extra_losses``.

    Raises:
        CheckpointError: If a class is not of pytorch-metric-learning.
    """

    def node(spec: Any) -> Any:
        if isinstance(spec, list):
            return [node(each) for each in spec]
        if not isinstance(spec, dict):
            return spec
        if "kwargs" not in spec:
            return {name: node(each) for name, each in spec.items()}
        cls = known_class(spec.get("name"))
        if cls is None:
            fault = f"its extra loss {spec.get('name')!r} is not a class of {PACKAGE}"
            raise CheckpointError(path, fault, f"name yours with --{NAME}")
        kwargs = {name: node(value) for name, value in (spec.get("kwargs") or {}).items()}
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": kwargs}

    entries = specs if isinstance(specs, list) else []
    return [{"loss": node(each), "weight": each.get("weight"), "miner": node(each.get("miner"))} for each in entries]
