"""``arcface-pl recognize``: enroll names from a few pictures, identify pictures, compare two pictures."""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcface_pl.cli.parser import MODEL_HELP, ToolParser, cell, number
from arcface_pl.errors import GalleryError, SettingsError, UserError, expected, printable

if TYPE_CHECKING:
    from arcface_pl.cli.inputs import FramedPictures
    from arcface_pl.recognizer import Recognizer

_DESCRIPTION = """\
Recognize classes that the model was not trained on, from a few pictures of each.

  enroll MODEL FOLDER...      enroll the pictures of each folder under the folder's name; pictures are added to a name
                              that is enrolled already. A folder of folders enrolls each of them
  remove MODEL NAME...        forget names
  list MODEL                  show the names and how many pictures each has
  identify MODEL IMAGE...     find the name of each picture, or report it as unknown
  verify MODEL IMAGE IMAGE    tell whether two pictures show the same class
  calibrate MODEL FOLDER      measure the thresholds on your own pictures, one folder per class; stored in the model

Exit code: 0 on success, 1 if some pictures could not be read, 2 for a mistake in the command."""

_EPILOG = """\
examples:
  arcface-pl recognize enroll best people/ada people/grace
  arcface-pl recognize identify best photo.jpg --json
  arcface-pl recognize verify best one.png other.png --threshold 0.6"""


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
    from arcface_pl.checkpoints.find_checkpoint import find_checkpoint
    from arcface_pl.cli.inputs import open_model
    from arcface_pl.recognizer import Recognizer

    if not os.path.isdir(given.model):
        given.model = find_checkpoint(given.model)
    recognizer = Recognizer(open_model(given.model, given.networks))
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
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="folders, names or pictures")
    parser.add_argument("--gallery", default="gallery", metavar="DIR", help="folder of the names (default: gallery)")
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
    wanted = {"verify": 2, "calibrate": 1, "list": 0}.get(given.action)
    if (wanted is not None and len(given.inputs) != wanted) or (wanted is None and not given.inputs):
        accepted = f"{'at least 1' if wanted is None else wanted} after the model"
        raise SettingsError(expected(f"{given.action}: arguments", len(given.inputs), accepted))
    return given


_Result = tuple[list[dict[str, Any]], dict[Path, str]]


def _enroll(recognizer: "Recognizer", given: argparse.Namespace) -> _Result:
    from arcface_pl.cli.inputs import name_folders

    errors: dict[Path, str] = {}
    embedded = []
    for name, paths in name_folders(given.inputs):
        pictures = _read(recognizer, paths)
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

    recognizer.load_gallery(given.gallery)
    warn_of_threshold(given.threshold, recognizer, "verification")
    files = find_pictures(given.inputs)
    rows, errors = [], {}
    for path, answer in zip(files, recognizer.identify(files, threshold=given.threshold), strict=True):
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
    from arcface_pl.cli.inputs import warn_of_threshold

    warn_of_threshold(given.threshold, recognizer, "verification")
    pictures = _read(recognizer, [Path(each) for each in given.inputs])
    if pictures.errors:
        return [], pictures.errors
    first, second = (pictures.pixels[list(pictures.paths).index(Path(each))][None] for each in given.inputs)
    cosine, angle, same = recognizer.verify(first, second, threshold=given.threshold, framed=True)
    return [{"cosine": round(cosine, 6), "angle_degrees": round(angle, 3), "same": same}], {}


def _calibrate(recognizer: "Recognizer", given: argparse.Namespace) -> _Result:
    from arcface_pl.checkpoints.atomic import write_checkpoint
    from arcface_pl.checkpoints.reading import CheckpointFile
    from arcface_pl.cli.inputs import name_folders

    named = list(name_folders(given.inputs))
    pictures = _read(recognizer, [path for _, paths in named for path in paths])
    name_of = {path: name for name, paths in named for path in paths}
    labels = [name_of[path] for path in pictures.paths]
    try:
        source = str(given.inputs[0])
        found = recognizer.calibrate(pictures.pixels, labels, far=given.far, source=source, framed=True)
    except ValueError as error:
        raise SettingsError(f"{given.inputs[0]}: {error}") from error
    if isinstance(given.model, CheckpointFile):
        write_checkpoint({**given.model.content, "calibration": found.to_dict()}, given.model.path)
    else:
        recognizer.save_pretrained(given.model)
    points = {"two pictures": found.verification, "class of a picture": found.classification}
    return [
        {"decision": label, "threshold": point.threshold, "far": point.far, "tar": point.tar, "eer": point.eer}
        for label, point in points.items()
        if point is not None
    ], pictures.errors


_ACTIONS = {
    "enroll": _enroll,
    "remove": _remove,
    "list": _list,
    "identify": _identify,
    "verify": _verify,
    "calibrate": _calibrate,
}


def _read(recognizer: "Recognizer", paths: Sequence[Path]) -> "FramedPictures":
    from arcface_pl.cli.inputs import read_pictures

    return read_pictures(recognizer.model, paths)


@contextmanager
def editing_gallery(recognizer: "Recognizer", folder: str, *, timeout: float = -1) -> Iterator[None]:
    """Lock the gallery, load it if there is one, and write it after the body.

    Args:
        recognizer: Its enrolled names are replaced by those of the gallery.
        folder: The gallery's, made if needed.
        timeout: Seconds to wait for another process that holds the lock; below 0: no limit.

    Raises:
        GalleryError: If it cannot be read or written, or the lock is not released in time. What this call made,
            folder or lock file, is then removed.
    """
    from filelock import FileLock, Timeout

    from arcface_pl.checkpoints.atomic import missing_folders
    from arcface_pl.recognizer.gallery import INDEX

    made, lock_file = missing_folders(Path(folder).absolute()), Path(folder) / ".lock"
    is_new = not lock_file.exists()
    if (Path(folder) / INDEX).exists():
        recognizer.load_gallery(folder)  # an error before a lock file is made
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_file).acquire(timeout=timeout)
    except Timeout as error:
        raise GalleryError(folder, "another process is changing it", "try again when it has finished") from error
    except OSError as error:
        raise GalleryError(folder, f"cannot be written ({error.strerror})", "give a writable folder") from error
    with lock:
        try:
            if (Path(folder) / INDEX).exists():
                recognizer.load_gallery(folder)
            yield
            recognizer.save_gallery(folder)
        except BaseException:
            if is_new:
                lock_file.unlink(missing_ok=True)
            with suppress(OSError):  # others hold files by now
                for each in made:
                    each.rmdir()
            raise


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
