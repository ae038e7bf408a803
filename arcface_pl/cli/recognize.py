"""``arcface-pl recognize``: enroll names from a few pictures, identify pictures, compare two pictures."""

import argparse
import json
from typing import Any

from arcface_pl.cli.parser import MODEL_HELP, ToolParser, cell, number
from arcface_pl.errors import SettingsError, expected, printable

ACTIONS = ("enroll", "remove", "list", "identify", "verify", "calibrate")


def run(args: list[str]) -> int:
    """Run one of the actions.

    Args:
        args: The action, the model, and the action's arguments.

    Returns:
        0, or 1 if some pictures could not be read.

    Raises:
        UserError: If the model, the gallery or an argument cannot be used.
    """
    given = _parse(args)
    from arcface_pl.cli import recognize_actions as actions  # imports torch

    rows, errors = getattr(actions, f"run_{given.action}")(actions.open_recognizer(given), given)
    failed = [{"file": str(path), "error": error} for path, error in errors.items()]
    if given.json:
        print(json.dumps(rows + failed, indent=1))  # noqa: T201
    else:
        _print(rows, failed)
    return 1 if failed else 0


def _parse(args: list[str]) -> argparse.Namespace:
    parser = ToolParser("recognize")
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help=", ".join(ACTIONS))
    parser.add_argument("model", metavar="MODEL", help=f"{MODEL_HELP}; or a file of embeddings")
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="folders, tables, names, pictures or files of embeddings"
    )
    parser.add_argument("--name", metavar="NAME", help="enroll: the name of all pictures given")
    parser.add_argument("--gallery", default="gallery", metavar="DIR", help="folder of the names (default: gallery)")
    parser.add_argument(
        "--made_by",
        metavar="NAME",
        help="what made the embeddings of files that do not say: MODEL, as you typed it, or a name of your choice, "
        "which the gallery keeps: others are refused",
    )
    parser.add_threshold()
    parser.add_argument(
        "--far",
        type=number(float, 1e-12, 1 - 1e-12, "a rate in (0, 1)"),
        default=1e-3,
        metavar="X",
        help="calibrate: false accept rate (default: 0.001)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array instead of a table")
    given = parser.parse_args(args)
    if given.name is not None and (given.action != "enroll" or not given.name.strip()):
        accepted = "no such flag" if given.name.strip() else "a name"
        raise SettingsError(expected("--name", given.name, f"{accepted} with {given.action}"))
    if not given.inputs and given.action in ("enroll", "calibrate"):
        from arcface_pl.cli.recognize_actions import holds_embeddings  # imports torch

        given.inputs = [given.model] if holds_embeddings(given.model) else []
    wanted = {"verify": 2, "calibrate": 1, "list": 0}.get(given.action)
    if (wanted is not None and len(given.inputs) != wanted) or (wanted is None and not given.inputs):
        accepted = f"{'at least 1' if wanted is None else wanted} after the model"
        raise SettingsError(expected(f"{given.action}: arguments", len(given.inputs), accepted))
    return given


def _print(rows: list[dict[str, Any]], failed: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    if rows:
        # Folded, not cut: paths and names may differ at their ends only
        table = Table(*(Column(key.replace("_", " "), overflow="fold") for key in rows[0]))
        for row in rows:
            table.add_row(*(cell(_cell(name, value)) for name, value in row.items()))
        Console(emoji=False).print(table)
    for each in failed:
        message = printable(f"{each['file']}: {each['error']}")
        Console(stderr=True, emoji=False).print(message, markup=False, soft_wrap=True)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "cosine":
        return f"{value:.4f}"  # as predict
    return f"{value:.6g}" if isinstance(value, float) else str(value)
