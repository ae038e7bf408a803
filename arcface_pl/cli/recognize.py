"""``arcface-pl recognize``: enroll names from a few pictures, identify pictures, compare two pictures."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcface_pl.cli.parser import MODEL_HELP, ToolParser, cell, number
from arcface_pl.errors import CheckpointError, SettingsError, UserError, expected, printable

if TYPE_CHECKING:
    import torch

    from arcface_pl.recognizer import Recognizer

_DESCRIPTION = """\
Recognize classes that the model was not trained on, from a few pictures of each.

  enroll MODEL INPUT...       enroll the pictures of each folder under the folder's name; pictures are added to a name
                              that is enrolled already. A folder of folders enrolls each of them, a table (CSV or
                              Parquet) with the columns path and label each of its labels; --name NAME takes
                              pictures, folders and quoted patterns for one name
  remove MODEL NAME...        forget names
  list MODEL                  show the names and how many pictures each has
  identify MODEL IMAGE...     find the name of each picture, or report it as unknown
  verify MODEL IMAGE IMAGE    tell whether two pictures show the same class
  calibrate MODEL INPUT       measure the thresholds on your own pictures, one folder per class or a table; stored in
                              the model

Files of embeddings (.npz, .safetensors, .parquet, .npy, as 'arcface-pl embed' writes) take the place of folders and
pictures: each label is a name. They take the place of MODEL, too, and stand for the network that made them.

Exit code: 0 on success, 1 if some pictures could not be read, 2 for a mistake in the command."""

_EPILOG = """\
examples:
  arcface-pl recognize enroll best people/ada people/grace
  arcface-pl recognize enroll best photo.jpg other.jpg --name ada
  arcface-pl recognize enroll best people.csv
  arcface-pl recognize identify best photo.jpg --json
  arcface-pl recognize verify best one.png other.png --threshold 0.6
  arcface-pl recognize enroll people.npz --made_by sface
  arcface-pl recognize identify people.npz queries.npz --made_by sface --threshold 0.4"""


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
    from arcface_pl.cli.recognize_inputs import open_recognizer

    recognizer = open_recognizer(given)
    rows, errors = _ACTIONS[given.action](recognizer, given)
    failed = [{"file": str(path), "error": error} for path, error in errors.items()]
    if given.json:
        print(json.dumps(rows + failed, indent=1))  # noqa: T201
    else:
        _print(rows, failed)
    return 1 if failed else 0


def _parse(args: list[str]) -> argparse.Namespace:
    parser = ToolParser("recognize", _DESCRIPTION, _EPILOG)
    parser.add_argument("action", choices=tuple(_ACTIONS), metavar="ACTION", help=", ".join(_ACTIONS))
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
        from arcface_pl.cli.recognize_inputs import holds_embeddings  # imports torch

        given.inputs = [given.model] if holds_embeddings(given.model) else []
    wanted = {"verify": 2, "calibrate": 1, "list": 0}.get(given.action)
    if (wanted is not None and len(given.inputs) != wanted) or (wanted is None and not given.inputs):
        accepted = f"{'at least 1' if wanted is None else wanted} after the model"
        raise SettingsError(expected(f"{given.action}: arguments", len(given.inputs), accepted))
    return given


_Result = tuple[list[dict[str, Any]], dict[Path, str]]


def _enroll(recognizer: "Recognizer", given: argparse.Namespace) -> _Result:
    from arcface_pl.cli.inputs import name_pictures, read_pictures
    from arcface_pl.cli.recognize_inputs import read_table, split_embeddings
    from arcface_pl.recognizer.gallery_lock import editing_gallery

    errors: dict[Path, str] = {}
    embedded: list[tuple[str, torch.Tensor]] = []
    tables, inputs = split_embeddings(given.inputs)
    for path in tables:
        table = read_table(given, path, recognizer, labelled=given.name is None)
        rows_of = table.rows_of_classes() if given.name is None else {given.name: slice(None)}
        embeddings = recognizer.embed(table.as_pictures())
        embedded += [(name, embeddings[chosen]) for name, chosen in rows_of.items()]
    for name, paths in name_pictures(inputs, as_name=given.name) if inputs else ():
        pictures = read_pictures(recognizer.model, paths)
        errors |= pictures.errors
        if pictures.paths:
            embedded.append((name, recognizer.embed(pictures.pixels, framed=True)))
    rows = []
    if embedded:
        with editing_gallery(recognizer, given.gallery):
            for name, embeddings in embedded:
                recognizer.gallery.add(name, embeddings)
                images = recognizer.gallery.counts[name]
                rows.append({"name": name, "enrolled": len(embeddings), "images": images})
    return rows, errors


def _remove(recognizer: "Recognizer", given: argparse.Namespace) -> _Result:
    from arcface_pl.recognizer.gallery_lock import editing_gallery

    recognizer.load_gallery(given.gallery)  # an error if there is none, before a lock file is made
    with editing_gallery(recognizer, given.gallery):
        for name in given.inputs:
            recognizer.remove(name)
    return [{"removed": name} for name in given.inputs], {}


def _list(recognizer: "Recognizer", given: argparse.Namespace) -> _Result:
    recognizer.load_gallery(given.gallery)
    return [{"name": name, "images": count} for name, count in recognizer.gallery.counts.items()], {}


def _identify(recognizer: "Recognizer", given: argparse.Namespace) -> _Result:
    from arcface_pl.cli.inputs import find_pictures, warn_of_threshold
    from arcface_pl.cli.recognize_inputs import read_table, split_embeddings

    recognizer.load_gallery(given.gallery)
    warn_of_threshold(given.threshold, recognizer, "verification")
    tables, inputs = split_embeddings(given.inputs)
    files = find_pictures(inputs)
    answers = recognizer.identify(files, threshold=given.threshold)
    for table_file in tables:
        table = read_table(given, table_file, recognizer, labelled=False)
        files += [Path(file or f"{table_file}[{row}]") for row, file in enumerate(table.paths)]
        answers += recognizer.identify(table.as_pictures(), threshold=given.threshold)
    rows, errors = [], {}
    for path, answer in zip(files, answers, strict=True):
        if isinstance(answer, UserError):
            errors[path] = str(answer).removeprefix(f"{path}: ")
            continue
        row: dict[str, Any] = {
            "file": str(path),
            "name": answer.name,
            "unknown": answer.name is None,
            "nearest": None,
            "cosine": None,
        }
        if answer.matches:
            row |= {"nearest": answer.matches[0].name, "cosine": round(answer.matches[0].score, 6)}
        rows.append(row)
    return rows, errors


def _verify(recognizer: "Recognizer", given: argparse.Namespace) -> _Result:
    from arcface_pl.cli.inputs import read_pictures, warn_of_threshold
    from arcface_pl.cli.recognize_inputs import read_one, split_embeddings

    warn_of_threshold(given.threshold, recognizer, "verification")
    tables, inputs = split_embeddings(given.inputs)
    pictures = read_pictures(recognizer.model, [Path(each) for each in inputs])
    if pictures.errors:
        return [], pictures.errors
    pair: list[Any] = [pictures.pixels[list(pictures.paths).index(Path(each))][None] for each in inputs]
    pair += [read_one(given, path, recognizer) for path in tables]
    cosine, angle, same = recognizer.verify(*pair, threshold=given.threshold, framed=True)
    return [{"cosine": round(cosine, 6), "angle_degrees": round(angle, 3), "same": same}], {}


def _calibrate(recognizer: "Recognizer", given: argparse.Namespace) -> _Result:
    from arcface_pl.checkpoints.atomic import write_checkpoint, writing
    from arcface_pl.cli.inputs import name_pictures, read_pictures
    from arcface_pl.cli.recognize_inputs import read_table, split_embeddings
    from arcface_pl.recognizer.onnx_model import write_thresholds

    path, has_network = given.found.path, bool(given.found.content)  # of an ONNX file, and of embeddings, it is empty
    if path.suffix == ".safetensors" and has_network:
        raise SettingsError(
            expected("MODEL", str(path), "a checkpoint or a folder of save_pretrained, to store them in")
        )
    errors: dict[Path, str] = {}
    images: Any
    if split_embeddings(given.inputs)[0]:
        table = read_table(given, given.inputs[0], recognizer, labelled=True)
        images, labels = table.as_pictures(), table.classes
    else:
        named = list(name_pictures(given.inputs))
        pictures = read_pictures(recognizer.model, [path for _, paths in named for path in paths])
        name_of = {path: name for name, paths in named for path in paths}
        images, labels, errors = pictures.pixels, [name_of[path] for path in pictures.paths], pictures.errors
    try:
        found = recognizer.calibrate(images, labels, far=given.far, source=str(given.inputs[0]), framed=True)
    except ValueError as error:
        raise SettingsError(f"{given.inputs[0]}: {error}") from error
    if not has_network:
        write_thresholds(path, found)
    elif path.is_dir():
        recognizer.save_pretrained(path)
    else:
        with writing(path, CheckpointError, "give a copy in a folder that can be written"):
            write_checkpoint({**given.found.content, "calibration": found.to_dict()}, path)
    points = {"two pictures": found.verification, "class of a picture": found.classification}
    return [
        {"decision": label, "threshold": point.threshold, "far": point.far, "tar": point.tar, "eer": point.eer}
        for label, point in points.items()
        if point is not None
    ], errors


_ACTIONS = {
    "enroll": _enroll,
    "remove": _remove,
    "list": _list,
    "identify": _identify,
    "verify": _verify,
    "calibrate": _calibrate,
}


def _print(rows: list[dict[str, Any]], failed: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    if rows:
        table = Table(*(key.replace("_", " ") for key in rows[0]))
        for row in rows:
            table.add_row(*(cell(_cell(value)) for value in row.values()))
        Console(emoji=False).print(table)
    for each in failed:
        message = printable(f"{each['file']}: {each['error']}")
        Console(stderr=True, emoji=False).print(message, markup=False, soft_wrap=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
