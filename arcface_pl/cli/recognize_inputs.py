"""Model and inputs of ``arcface-pl recognize``, either of which may be a file of embeddings."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from arcface_pl.checkpoints.reading import CheckpointFile
from arcface_pl.cli.inputs import find_model
from arcface_pl.errors import SettingsError, expected
from arcface_pl.preprocessing import is_image
from arcface_pl.recognizer import Embeddings, Recognizer
from arcface_pl.recognizer.embedding_files import EmbeddingTable
from arcface_pl.recognizer.embedding_reading import is_embeddings, read_embeddings
from arcface_pl.recognizer.onnx_model import read_thresholds


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
