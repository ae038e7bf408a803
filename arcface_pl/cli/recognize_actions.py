"""What ``arcface-pl recognize`` does: a function per action, and the model and inputs, which may be embeddings."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from arcface_pl.checkpoints.atomic import write_checkpoint, writing
from arcface_pl.checkpoints.reading import CheckpointFile
from arcface_pl.cli.inputs import find_model, find_pictures, name_pictures, read_pictures, warn_of_threshold
from arcface_pl.errors import CheckpointError, SettingsError, UserError, expected
from arcface_pl.preprocessing import is_image
from arcface_pl.recognizer import Embeddings, Recognizer
from arcface_pl.recognizer.embedding_files import EmbeddingTable
from arcface_pl.recognizer.embedding_reading import is_embeddings, read_embeddings
from arcface_pl.recognizer.gallery_lock import editing_gallery
from arcface_pl.recognizer.onnx_model import read_thresholds, write_thresholds

_Result = tuple[list[dict[str, Any]], dict[Path, str]]


def run_enroll(recognizer: Recognizer, given: argparse.Namespace) -> _Result:
    """Add pictures and embeddings to names."""
    errors: dict[Path, str] = {}
    embedded: list[tuple[str, Tensor]] = []
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


def run_remove(recognizer: Recognizer, given: argparse.Namespace) -> _Result:
    """Forget names."""
    recognizer.load_gallery(given.gallery)  # an error if there is none, before a lock file is made
    with editing_gallery(recognizer, given.gallery):
        for name in given.inputs:
            recognizer.remove(name)
    return [{"removed": name} for name in given.inputs], {}


def run_list(recognizer: Recognizer, given: argparse.Namespace) -> _Result:
    """Return the names with their numbers of pictures."""
    recognizer.load_gallery(given.gallery)
    return [{"name": name, "images": count} for name, count in recognizer.gallery.counts.items()], {}


def run_identify(recognizer: Recognizer, given: argparse.Namespace) -> _Result:
    """Find the name of each picture or embedding."""
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


def run_verify(recognizer: Recognizer, given: argparse.Namespace) -> _Result:
    """Compare two pictures or embeddings."""
    warn_of_threshold(given.threshold, recognizer, "verification")
    tables, inputs = split_embeddings(given.inputs)
    pictures = read_pictures(recognizer.model, [Path(each) for each in inputs])
    if pictures.errors:
        return [], pictures.errors
    pair: list[Any] = [pictures.pixels[list(pictures.paths).index(Path(each))][None] for each in inputs]
    pair += [read_one(given, path, recognizer) for path in tables]
    cosine, angle, same = recognizer.verify(*pair, threshold=given.threshold, framed=True)
    return [{"cosine": round(cosine, 6), "angle_degrees": round(angle, 3), "same": same}], {}


def run_calibrate(recognizer: Recognizer, given: argparse.Namespace) -> _Result:
    """Measure thresholds and store them with the model."""
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


def open_recognizer(given: argparse.Namespace) -> Recognizer:
    """Open MODEL, and keep its path and content as ``given.found``; embeddings stand for what made them."""
    if not holds_embeddings(given.model):
        given.found, model = find_model(given.model, given.networks)
        return Recognizer(model)
    if given.networks:
        flag = given.networks[0].partition("=")[0]
        raise SettingsError(f"{flag}: not accepted with embeddings, which have no network")
    given.found = CheckpointFile(Path(given.model), {})
    table = read_table(given, given.model, None, labelled=False)
    recognizer = Recognizer.for_embeddings(table.embeddings.shape[1], str(table.made_by))
    recognizer.model.calibration = read_thresholds(given.model)
    return recognizer


def split_embeddings(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell files of embeddings from other inputs."""
    tables = [each for each in inputs if holds_embeddings(each)]
    return tables, [each for each in inputs if each not in tables]


def holds_embeddings(path: str) -> bool:
    """Whether a path is a file or folder of embeddings; a folder that also has folders or pictures is one of these."""
    if not is_embeddings(path):
        return False
    entries = Path(path).iterdir() if Path(path).is_dir() else ()
    return not any(each.is_dir() or is_image(each.name) for each in entries)


def read_table(
    given: argparse.Namespace, path: str, recognizer: Recognizer | None, *, labelled: bool
) -> EmbeddingTable:
    """Read embeddings, and settle what made them: what the file says, or --made_by."""
    table = read_embeddings(path, labelled=labelled)
    is_model = recognizer is not None and given.made_by == given.model
    made_by = table.made_by or (recognizer.model.fingerprint if recognizer and is_model else given.made_by)
    if not made_by:
        remedy = f"Give --made_by {'NAME' if holds_embeddings(given.model) else given.model}"
        accepted = "the name of what made these embeddings, which the file does not say"
        raise SettingsError(expected(f"{path}: made_by", None, accepted, remedy))
    return replace(table, made_by=made_by + ", with mirror images" * table.flip)


def read_one(given: argparse.Namespace, path: str, recognizer: Recognizer) -> Embeddings:
    """Read the one embedding of a file."""
    table = read_table(given, path, recognizer, labelled=False)
    if len(table.ids) != 1:
        raise SettingsError(expected(path, f"{len(table.ids)} embeddings", "one, to be compared with another"))
    return table.as_pictures()
