"""Embeddings that others computed, with labels: npz, safetensors, npy, or a folder with such files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from arcface_pl.errors import DataError, expected
from arcface_pl.recognizer.embedding_files import EmbeddingTable

_SUFFIXES = (".npz", ".safetensors", ".npy")
_ACCEPTED = (
    "embeddings (N, D) and labels (N,): .npz or .safetensors with both, or embeddings.npy with labels.npy beside it"
)


def is_embeddings(path: str | Path) -> bool:
    """Whether a path names a file of embeddings, or a folder with one named ``embeddings``; not one of weights."""
    file = _file(Path(path))
    if file is None or file.suffix.lower() != ".safetensors":
        return file is not None
    try:
        with safe_open(file, "numpy") as opened:
            return "embeddings" in opened.keys()  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError):
        return False


def read_embeddings(path: str | Path) -> EmbeddingTable:
    """Read embeddings and labels; nothing is unpickled.

    Args:
        path: An ``.npz`` or ``.safetensors`` file with ``embeddings`` and ``labels``, as `arcface-pl embed` writes; an
            ``.npy`` file with ``labels.npy`` beside it; or a folder with one of them, named ``embeddings``. Labels are
            whole numbers or texts. ``classes`` (npz: a name per row) and ``class_names`` (safetensors: JSON metadata)
            name numbers.

    Raises:
        DataError: If the file cannot be read, or holds anything else.
    """
    file = _file(Path(path))
    if file is None:
        raise DataError(expected("EMBEDDINGS", str(path), _ACCEPTED))
    try:
        found = _read(file)
        embeddings, labels = np.asarray(found["embeddings"]), np.asarray(found["labels"])
    except KeyError as error:
        raise DataError(expected(str(file), f"no {error.args[0]}", _ACCEPTED)) from None
    except Exception as error:  # numpy and safetensors raise types of their own over damaged files
        raise DataError(expected(str(file), " ".join(str(error).split())[:200], _ACCEPTED)) from None
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or len(embeddings) < 2:
        raise DataError(
            expected(
                f"{file}: embeddings", f"{embeddings.dtype} {embeddings.shape}", "two or more rows of floating point"
            )
        )
    if labels.shape != embeddings.shape[:1] or labels.dtype.kind not in "iuU":
        accepted = f"{len(embeddings)} whole numbers or texts"
        raise DataError(expected(f"{file}: labels", f"{labels.dtype} {labels.shape}", accepted))
    if not np.isfinite(embeddings).all():
        row = int(np.flatnonzero(~np.isfinite(embeddings).all(1))[0])
        raise DataError(expected(f"{file}: embeddings, row {row}", "NaN or inf", "finite numbers"))
    names, numbers = _classes(file, labels, found)
    return EmbeddingTable(embeddings.astype(np.float32), numbers, names, [""] * len(labels), np.arange(len(labels)))


def _classes(file: Path, labels: np.ndarray, found: Mapping[str, Any]) -> tuple[list[str], np.ndarray]:
    """Return the names of the classes that occur, and the number of each row's."""
    if labels.dtype.kind in "iu" and len(labels) and labels.min() < 0:
        raise DataError(
            expected(f"{file}: labels", int(labels.min()), "the class of every row; -1 is that of pictures without one")
        )
    values, numbers = np.unique(labels, return_inverse=True)
    names = [str(value) for value in values.tolist()]
    given = found.get("class_names")
    if given is not None and labels.dtype.kind in "iu" and values.max() < len(given):
        names = [str(given[value]) for value in values.tolist()]
    rows = np.asarray(found.get("classes", ()))
    if rows.shape == labels.shape:
        names = [str(rows[np.argmax(numbers == number)]) for number in range(len(values))]
    return names, numbers.astype(np.int64)


def _file(path: Path) -> Path | None:
    if path.is_dir():
        return next((each for suffix in _SUFFIXES if (each := path / f"embeddings{suffix}").is_file()), None)
    return path if path.suffix.lower() in _SUFFIXES and path.is_file() else None


def _read(file: Path) -> dict[str, Any]:
    if file.suffix.lower() == ".safetensors":
        with safe_open(file, "numpy") as opened:
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping
            names = (opened.metadata() or {}).get("class_names")
        return {**found, "class_names": None if names is None else json.loads(names)}
    if file.suffix.lower() == ".npz":
        with np.load(file, allow_pickle=False) as opened:
            return {name: opened[name] for name in opened.files if name in ("embeddings", "labels", "classes")}
    labels = file.with_name("labels.npy")
    if not labels.is_file():
        raise KeyError("labels.npy beside it")
    return {"embeddings": np.load(file, allow_pickle=False), "labels": np.load(labels, allow_pickle=False)}
