"""Inputs of the commands that use a trained model: the model, and pictures, some of which may be unreadable."""

import glob
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import yaml
from torch import Tensor

from arcface_pl.checkpoints.find_checkpoint import find_checkpoint
from arcface_pl.checkpoints.network import REGISTRIES, is_known
from arcface_pl.checkpoints.reading import CheckpointFile
from arcface_pl.cli.parser import split_words
from arcface_pl.cli.program import as_typed
from arcface_pl.errors import DataError, SettingsError, expected, folded, listed, printable
from arcface_pl.preprocessing import IMAGE_SUFFIXES, ImageError, is_image, left_out
from arcface_pl.recognizer import TrainedModel
from arcface_pl.recognizer.as_checkpoint import as_checkpoint
from arcface_pl.recognizer.onnx_model import SETTINGS, is_onnx, read_onnx
from arcface_pl.recognizer.pretrained import CONFIG, MANIFEST, read_pretrained

if TYPE_CHECKING:
    from arcface_pl.recognizer import Recognizer

_LOG = logging.getLogger(__name__)
_TABLES = (".csv", ".tsv", ".parquet", ".pq")


class FramedPictures(NamedTuple):
    """Pictures at the network's input size, and the files that could not be read.

    Attributes:
        pixels: (B, C, S, S) uint8.
        paths: The B files they were read from.
        errors: What is wrong with each of the other files.
    """

    pixels: Tensor
    paths: list[Path]
    errors: dict[Path, str]


def read_model(
    asked: str, root: str | None = None, *, option: str = "MODEL", announces: bool = True, mapped: bool = False
) -> CheckpointFile:
    """Find and read a trained model in any form.

    Args:
        asked: A checkpoint by path or name (best, last, last-good), a folder that `save_pretrained` wrote, a
            .safetensors file of ``arcface-pl export``, or an ONNX file, whose content is then empty.
        root: See `find_checkpoint`.
        option: See `find_checkpoint`.
        announces: See `find_checkpoint`.
        mapped: See `read_checkpoint`.

    Raises:
        UserError: If there is none, or it cannot be used.
    """
    if is_onnx(asked):
        return CheckpointFile(Path(asked), {})
    if os.path.isdir(asked) or (asked.endswith(".safetensors") and os.path.isfile(asked)):
        return as_checkpoint(asked)
    return find_checkpoint(asked, root, option=option, announces=announces, mapped=mapped)


def open_model(model: str | CheckpointFile, networks: Sequence[str] = ()) -> TrainedModel:
    """Open a trained model.

    Args:
        model: Its path or name as for `read_model`, or what that returned.
        networks: Flags below ``--model.backbone`` and ``--model.head``: classes that are not of this package; and below
            ``--onnx``: how an ONNX file's pictures are prepared.

    Raises:
        UserError: If there is none, or it cannot be used.
    """
    onnx, networks = split_words(networks, "--onnx")
    path = model.path if isinstance(model, CheckpointFile) else model
    if is_onnx(path):
        if networks:
            raise SettingsError(
                f"{networks[0].partition('=')[0]}: not accepted with an ONNX file, which is the network"
            )
        return read_onnx(str(path), _onnx_settings(onnx))
    if onnx:
        raise SettingsError(expected(onnx[0].partition("=")[0], str(path), "a model that is an ONNX file"))
    if isinstance(model, str) and os.path.isdir(model):
        return read_pretrained(model, **_own_networks(model, MANIFEST.read(Path(model) / CONFIG), networks))
    found = read_model(model) if isinstance(model, str) else model
    specs = found.content["hyper_parameters"]
    return TrainedModel.from_checkpoint(found, **_own_networks(found.path, specs, networks, found))


def find_model(name: str, networks: Sequence[str] = ()) -> tuple[CheckpointFile, TrainedModel]:
    """Open a model as `open_model` does, with its checkpoint, whose content is empty for an ONNX file."""
    if split_words(networks, "--onnx")[0]:  # refused with other files, before these are read
        return CheckpointFile(Path(name), {}), open_model(name, networks)
    found = read_model(name)
    return found, open_model(found, networks)


def _onnx_settings(words: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    remaining = iter(words)
    for word in remaining:
        flag = word if "=" in word else f"{word}={next(remaining, '')}"
        name, _, text = flag.removeprefix("--onnx").removeprefix(".").partition("=")
        if name not in SETTINGS or not text:
            raise SettingsError(expected(flag.partition("=")[0], text, f"--onnx. and one of {listed(SETTINGS)}"))
        try:
            settings[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            settings[name] = text
    return settings


def _own_networks(
    origin: str | Path, specs: Mapping[str, Any], words: Sequence[str], found: CheckpointFile | None = None
) -> dict[str, Any]:
    if not words and all(is_known(role, specs.get(role)) for role in REGISTRIES):
        return {}
    from arcface_pl.cli.own_networks import build_networks, configured_networks  # takes seconds: Lightning's CLI

    return build_networks(origin, specs, words, {} if found is None else configured_networks(found))


def warn_of_threshold(given: float | None, recognizer: "Recognizer", kind: str = "classification") -> None:
    """Print to standard error that nothing will be called unknown, or nearly everything.

    Args:
        given: The user's threshold.
        recognizer: Has the stored thresholds.
        kind: The one that counts, "classification" or "verification".
    """
    if given is not None:
        return
    calibration = recognizer.model.calibration
    notice = None if kind == "verification" or calibration is None else calibration.notice
    if getattr(recognizer.thresholds, kind) is None:
        notice = (
            "this model has no threshold: nothing is called unknown. 'arcface-pl recognize calibrate' measures one, or "
            "give --threshold"
        )
    if notice is not None:
        print(folded(f"NOTE: {as_typed(notice)}", sys.stderr), file=sys.stderr)  # noqa: T201


def find_pictures(names: Sequence[str | Path], option: str = "IMAGE") -> list[Path]:
    """Return the files that names stand for.

    A folder stands for all files below it with an image suffix, sorted by path; a pattern with *, ? or ** for the files
    that match; anything else for itself. Names that begin with a dot are hidden.

    Args:
        names: Files, folders and patterns.
        option: The argument that they were given to, for messages.

    Raises:
        SettingsError: If a folder has no picture, or no file matches a pattern.
    """
    files: list[Path] = []
    for name in map(str, names):
        if os.path.isdir(name):
            files += _some(name, Path(name).rglob("*"), option)
        elif not os.path.lexists(name) and glob.has_magic(name):
            files += _matching(name, option)
        else:
            files.append(Path(name))
    return files


def name_pictures(
    names: Sequence[str | Path], option: str = "INPUT", *, as_name: str | None = None
) -> Iterator[tuple[str, list[Path]]]:
    """Yield names and their pictures: a folder is one name, or holds one folder per name; a table has a name per row.

    Args:
        names: Folders, and tables (.csv, .tsv, .parquet, .pq) with the columns ``path`` and ``label``, whose paths are
            relative to the table's folder.
        option: The argument that they were given to, for messages.
        as_name: The name of all pictures; ``names`` are then as for `find_pictures`.

    Raises:
        SettingsError: If one is neither, or has no picture.
    """
    if as_name is not None:
        yield as_name, find_pictures(names, option)
        return
    for name in map(str, names):
        if os.path.isdir(name):
            yield from _name_folders(Path(name), option)
        elif os.path.isfile(name) and Path(name).suffix.lower() in _TABLES:
            yield from _name_rows(Path(name), option)
        else:
            accepted = f"a folder of pictures, which is named, or a table ({', '.join(_TABLES)}) with path and label"
            raise SettingsError(expected(option, name, accepted, "To enroll pictures, give --name NAME"))


def _name_folders(path: Path, option: str) -> Iterator[tuple[str, list[Path]]]:
    entries = _entries(path, option)
    one_name = any(is_image(each.name) for each in _files(entries, path))
    inner = [] if one_name else sorted(each for each in entries if os.path.isdir(each))
    for folder in inner or [path]:
        # resolve(), since "." has no name
        yield folder.resolve().name, _some(str(folder), _entries(folder, option), option)


def _name_rows(table: Path, option: str) -> Iterator[tuple[str, list[Path]]]:
    named: dict[str, dict[Path, None]] = {}
    try:
        from arcface_pl.data.folders.table_file import check_paths, read_table  # the room imports Lightning

        rows = read_table(table, {"path": "path", "label": "label"})
        check_paths(table, table.parent, rows)
    except DataError as error:  # which speaks of the data module's settings
        text = re.sub(r"\. Name it with data\.\w+$", "", str(error))
        raise SettingsError(re.sub(r"^data\.table(?=:)", option, text.removeprefix("data.table "))) from error
    for row in rows:
        named.setdefault(row.label, {})[table.parent / row.path] = None  # a file that is listed twice counts once
    yield from ((name, list(paths)) for name, paths in named.items())


def read_pictures(model: TrainedModel, paths: Sequence[Path]) -> FramedPictures:
    """Read files and frame them for the model; unreadable files are noted and skipped."""
    to_input = model.preprocessor
    pixels: dict[Path, Tensor] = {}
    errors: dict[Path, str] = {}
    for path in paths:
        try:
            pixels[path] = to_input.read(path)
        except ImageError as error:
            errors[path] = str(error).removeprefix(f"{path}: ")
    none = torch.empty(0, to_input.in_channels, to_input.image_size, to_input.image_size, dtype=torch.uint8)
    return FramedPictures(torch.stack(list(pixels.values())) if pixels else none, list(pixels), errors)


def _matching(pattern: str, option: str) -> list[Path]:
    anchor = Path(pattern).anchor
    try:  # Path.glob does not follow links, which may form a cycle
        matches = Path(anchor).glob(pattern[len(anchor) :])
        asked_for_hidden = _hidden(Path(pattern))
        found = sorted(path for path in matches if os.path.isfile(path) and (asked_for_hidden or not _hidden(path)))
    except (ValueError, NotImplementedError, IndexError) as error:
        raise SettingsError(expected(option, pattern, "a valid pattern", str(error))) from error
    if not found:
        raise SettingsError(expected(option, pattern, "a pattern that matches files; no file matches this one"))
    return found


def _entries(folder: Path, option: str) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise SettingsError(expected(option, str(folder), "a readable folder", str(error.strerror))) from error


def _some(folder: str, paths: Iterable[Path], option: str) -> list[Path]:
    files = _files(paths, Path(folder))
    found = [path for path in files if is_image(path.name)]
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        accepted = f"a folder with pictures; no file in this folder has an image suffix ({suffixes})"
        raise SettingsError(expected(option, folder, accepted))
    if skipped := Counter(path.suffix.lower() for path in files if not is_image(path.name)):
        _LOG.warning("%s: %s", printable(folder), left_out(skipped))
    return found


def _files(paths: Iterable[Path], below: Path) -> list[Path]:
    return sorted(path for path in paths if not _hidden(path.relative_to(below)) and os.path.isfile(path))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
