"""``arcface-pl recognize``: enrol names from a few pictures, compare two pictures, find a picture's name."""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcface_pl.cli.parser import ToolParser
from arcface_pl.errors import SettingsError

if TYPE_CHECKING:
    from arcface_pl.cli.inputs import Pictures
    from arcface_pl.recognizer import Recognizer

__all__ = ["editing_gallery", "run"]

_DESCRIPTION = """\
Recognise what the model was never trained on, from a few pictures of each.

  enroll MODEL FOLDER...      enrol the pictures of each folder under the folder's name; a name that is there
                              already gets them in addition. A folder of folders enrols each of these
  remove MODEL NAME...        forget names
  list MODEL                  show the names and how many pictures each has
  identify MODEL IMAGE...     find the name of each picture, or say that it is unknown
  verify MODEL IMAGE IMAGE    say whether two pictures show the same
  calibrate MODEL FOLDER      measure the thresholds on your own pictures, a folder a class; kept in the model

MODEL is a checkpoint, a folder that Recognizer.save_pretrained wrote, or best, last or last-good: that of the
newest run.
Exit code 0: all done; 1: some pictures could not be read, and the others went on; 2: nothing could be done."""

_EPILOG = """\
examples:
  arcface-pl recognize enroll best people/ada people/grace
  arcface-pl recognize identify best photo.jpg --json
  arcface-pl recognize verify best one.png other.png --threshold 0.6"""


def run(args: list[str]) -> int:
    """Run one of the actions.

    Args:
        args: The action, the model, and what the action takes.

    Returns:
        0, or 1 where some pictures could not be read.

    Raises:
        UserError: If the model, the gallery or an argument cannot be used.
    """
    given = _parse(args)
    from arcface_pl.cli.find_checkpoint import find_checkpoint
    from arcface_pl.cli.inputs import open_model
    from arcface_pl.recognizer import Recognizer

    if not os.path.isdir(given.model):
        given.model = str(find_checkpoint(given.model))  # once: another run may be the newest before all is done
    recognizer = Recognizer(open_model(given.model))
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
    parser.add_argument("model", metavar="MODEL", help="checkpoint, folder, best, last or last-good")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="folders, names or pictures")
    parser.add_argument("--gallery", default="gallery", metavar="DIR", help="where names are kept (default: gallery)")
    parser.add_argument("--threshold", type=float, metavar="X", help="cosine from which on two are the same")
    parser.add_argument(
        "--far", type=float, default=1e-3, metavar="X", help="calibrate: false accept rate (default: 0.001)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array in place of a table")
    given = parser.parse_args(args)
    wanted = {"verify": 2, "calibrate": 1, "list": 0}.get(given.action)
    if (wanted is not None and len(given.inputs) != wanted) or (wanted is None and not given.inputs):
        raise SettingsError(
            f"{given.action}: got {len(given.inputs)} arguments after the model, accepts "
            f"{'at least 1' if wanted is None else wanted}"
        )
    if given.threshold is not None and not -1 <= given.threshold <= 1:
        raise SettingsError(f"--threshold: got {given.threshold}, accepts a cosine from -1 to 1")
    if not 0 < given.far < 1:
        raise SettingsError(f"--far: got {given.far}, accepts a rate between 0 and 1")
    return given


_Result = tuple[list[dict[str, Any]], dict[Path, str]]


def _enroll(recognizer: "Recognizer", given: argparse.Namespace) -> _Result:
    from arcface_pl.cli.inputs import name_folders

    errors: dict[Path, str] = {}
    rows = []
    with editing_gallery(recognizer, given.gallery):
        for name, paths in name_folders(given.inputs):
            pictures = _read(recognizer, paths)
            errors |= pictures.errors
            if pictures.paths:
                total = recognizer.enroll(name, pictures.pixels)
                rows.append({"name": name, "enrolled": len(pictures.paths), "images": total})
    return rows, errors


def _remove(recognizer: "Recognizer", given: argparse.Namespace) -> _Result:
    with editing_gallery(recognizer, given.gallery):
        for name in given.inputs:
            recognizer.remove(name)
    return [{"removed": name} for name in given.inputs], {}


def _list(recognizer: "Recognizer", given: argparse.Namespace) -> _Result:
    recognizer.load_gallery(given.gallery)
    return [{"name": name, "images": count} for name, count in recognizer.gallery.counts.items()], {}


def _identify(recognizer: "Recognizer", given: argparse.Namespace) -> _Result:
    from arcface_pl.cli.inputs import find_pictures

    recognizer.load_gallery(given.gallery)
    _remark(recognizer, given)
    pictures = _read(recognizer, find_pictures(given.inputs))
    answers = recognizer.identify(pictures.pixels, threshold=given.threshold)
    return [
        {
            "file": str(path),
            "name": answer.name,
            "unknown": answer.name is None,
            "nearest": answer.matches[0].name if answer.matches else None,
            "cosine": round(answer.matches[0].score, 6) if answer.matches else None,
        }
        for path, answer in zip(pictures.paths, answers, strict=True)
    ], pictures.errors


def _verify(recognizer: "Recognizer", given: argparse.Namespace) -> _Result:
    _remark(recognizer, given)
    pictures = _read(recognizer, [Path(each) for each in given.inputs])
    if pictures.errors:
        return [], pictures.errors
    first, second = (pictures.pixels[list(pictures.paths).index(Path(each))][None] for each in given.inputs)
    cosine, angle, same = recognizer.verify(first, second, threshold=given.threshold)
    return [{"cosine": round(cosine, 6), "angle_degrees": round(angle, 3), "same": same}], {}


def _calibrate(recognizer: "Recognizer", given: argparse.Namespace) -> _Result:
    from arcface_pl.checkpoints.atomic import write_checkpoint
    from arcface_pl.checkpoints.reading import read_checkpoint
    from arcface_pl.cli.inputs import name_folders

    named = list(name_folders(given.inputs))
    pictures = _read(recognizer, [path for _, paths in named for path in paths])
    name_of = {path: name for name, paths in named for path in paths}
    labels = [name_of[path] for path in pictures.paths]
    try:
        found = recognizer.calibrate(pictures.pixels, labels, far=given.far, source=str(given.inputs[0]))
    except ValueError as error:
        raise SettingsError(f"{given.inputs[0]}: {error}") from error
    if os.path.isdir(given.model):
        recognizer.save_pretrained(given.model)
    else:
        path = Path(given.model)
        write_checkpoint({**read_checkpoint(path), "calibration": found.to_dict()}, path)
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


def _read(recognizer: "Recognizer", paths: Sequence[Path]) -> "Pictures":
    from arcface_pl.cli.inputs import read_pictures

    return read_pictures(recognizer.model, paths)


def _remark(recognizer: "Recognizer", given: argparse.Namespace) -> None:
    from rich.console import Console

    if given.threshold is None and recognizer.thresholds.verification is None:
        Console(stderr=True).print(
            "No threshold is kept in this model: nothing is called unknown. 'arcface-pl recognize calibrate' measures "
            "one, or give --threshold."
        )


@contextmanager
def editing_gallery(recognizer: "Recognizer", folder: str, *, timeout: float = -1) -> Iterator[None]:
    """Load the gallery if there is one, and write it back; other processes wait meanwhile.

    Args:
        recognizer: Its enrolled names are replaced by those of the gallery, and written after the body.
        folder: The gallery's, made if it is not there.
        timeout: Seconds to wait for another process to be done with it; below 0: as long as it takes.

    Raises:
        GalleryError: If it cannot be read or written, or another process is not done with it in time.
    """
    from filelock import FileLock, Timeout

    from arcface_pl.recognizer import GalleryError

    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock = FileLock(Path(folder) / ".lock").acquire(timeout=timeout)
    except Timeout as error:
        raise GalleryError(folder, "another process is changing it", "try again when it is done") from error
    except OSError as error:
        raise GalleryError(folder, f"cannot be written ({error.strerror})", "name a folder that can be") from error
    with lock:
        if any(Path(folder).glob("gallery.json")):
            recognizer.load_gallery(folder)
        yield
        recognizer.save_gallery(folder)


def _print(rows: list[dict[str, Any]], failed: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from arcface_pl.cli.inputs import printable

    console = Console()
    if rows:
        table = Table(*(key.replace("_", " ") for key in rows[0]))
        for row in rows:
            table.add_row(*(escape(printable(_cell(value))) for value in row.values()))
        console.print(table)
    for each in failed:
        Console(stderr=True).print(f"{printable(each['file'])}: {each['error']}", markup=False, soft_wrap=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
