"""Embeddings that others computed, with labels: npz, safetensors, Parquet, npy, or a folder with such files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from arcface_pl.errors import DataError, expected
from arcface_pl.recognizer.embedding_files import EmbeddingTable, check_rows

_ACCEPTED = (
    "embeddings (N, D) and labels (N,): .npz, .safetensors or .parquet with both, or embeddings.npy with labels.npy "
    "beside it"
)


def is_embeddings(path: str | Path) -> bool:
    """Whether a path names a file of embeddings, or a folder with one named ``embeddings``.

    A safetensors file of weights is not one, nor a Parquet table of paths.
    """
    file = _file(Path(path))
    if file is None or file.suffix.lower() not in (".safetensors", ".parquet"):
        return file is not None
    try:
        if file.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            return "embedding" in pq.read_schema(file).names
        with safe_open(file, "numpy") as opened:
            return "embeddings" in opened.keys()  # noqa: SIM118  # not a mapping
    except (ImportError, OSError, ValueError, SafetensorError):
        return False


def read_embeddings(path: str | Path, *, labelled: bool = True) -> EmbeddingTable:
    """Read embeddings and labels; nothing is unpickled.

    Args:
        path: An ``.npz``, ``.safetensors`` or ``.parquet`` file with ``embeddings`` and ``labels``, as `arcface-pl
            embed` writes; an ``.npy`` file with ``labels.npy`` beside it; or a folder with one of them, named
            ``embeddings``. Labels are whole numbers or texts. ``classes`` (npz: a name per row) and ``class_names``
            (safetensors: JSON metadata) name numbers; ``paths`` and ``made_by`` are optional.
        labelled: Whether every row must have a label; if not, labels are not read, and are -1.

    Raises:
        DataError: If the file cannot be read, or holds anything else.
    """
    file = _file(Path(path))
    if file is None:
        raise DataError(expected("EMBEDDINGS", str(path), _ACCEPTED))
    try:
        found = _READERS[file.suffix.lower()](file)
        embeddings = np.asarray(found["embeddings"])
        labels = np.asarray(found["labels"] if labelled else np.full(len(embeddings), -1))
    except KeyError as error:
        raise DataError(expected(str(file), f"no {error.args[0]}", _ACCEPTED)) from None
    except Exception as error:  # numpy and safetensors raise types of their own over damaged files
        raise DataError(expected(str(file), " ".join(str(error).split())[:200], _ACCEPTED)) from None
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or not embeddings.size:
        got = f"{embeddings.dtype} {embeddings.shape}"
        raise DataError(expected(f"{file}: embeddings", got, "one or more rows of floating point, (N, D)"))
    if labels.shape != embeddings.shape[:1] or labels.dtype.kind not in "iuU":
        accepted = f"{len(embeddings)} whole numbers or texts"
        raise DataError(expected(f"{file}: labels", f"{labels.dtype} {labels.shape}", accepted))
    with np.errstate(over="ignore"):
        rows = embeddings.astype(np.float32)
    check_rows(f"{file}: embeddings", torch.from_numpy(rows))
    if labelled and labels.dtype.kind in "iu" and labels.min() < 0:
        accepted = "the class of every row; -1 is that of pictures without one"
        raise DataError(expected(f"{file}: labels", int(labels.min()), accepted))
    names, numbers = _classes(labels, found) if labelled else ([], labels)
    paths = [str(each) for each in found.get("paths", ())]
    return EmbeddingTable(
        rows,
        numbers,
        names,
        paths if len(paths) == len(labels) else [""] * len(labels),
        np.arange(len(labels)),
        bool(found.get("flip", False)),
        str(found.get("made_by") or "") or None,
    )


def _classes(labels: np.ndarray, found: Mapping[str, Any]) -> tuple[list[str], np.ndarray]:
    """Return the names of the classes that occur, and the number of each row's."""
    are_numbers = labels.dtype.kind in "iu"
    values, numbers = np.unique(labels, return_inverse=True)
    names = [str(value) for value in values.tolist()]
    given = found.get("class_names")
    if given is not None and are_numbers and values.max() < len(given):
        names = [str(given[value]) for value in values.tolist()]
    rows = np.asarray(found.get("classes", ()))
    if rows.shape == labels.shape:
        names = [str(rows[np.argmax(numbers == number)]) for number in range(len(values))]
    return names, numbers.astype(np.int64)


def _file(path: Path) -> Path | None:
    if path.is_dir():
        return next((each for suffix in _READERS if (each := path / f"embeddings{suffix}").is_file()), None)
    return path if path.suffix.lower() in _READERS and path.is_file() else None


def _from_safetensors(file: Path) -> dict[str, Any]:
    with safe_open(file, "numpy") as opened:
        found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping
        texts = opened.metadata() or {}
    texts |= {name: json.loads(texts[name]) for name in ("class_names", "paths", "flip") if name in texts}
    return {**texts, **found}


def _from_npz(file: Path) -> dict[str, Any]:
    names = ("embeddings", "labels", "classes", "paths", "flip", "made_by")
    with np.load(file, allow_pickle=False) as opened:
        return {name: opened[name] for name in opened.files if name in names}


def _from_parquet(file: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    width = len(table["embedding"][0]) if len(table) else 0
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    found: dict[str, Any] = {"embeddings": flat.reshape(len(table), width)}
    for name, column in (("labels", "label"), ("classes", "class"), ("paths", "path")):
        if column in table.column_names:
            found[name] = np.array(table[column].to_pylist())
    facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items() if key != b"flip"}
    return {**facts, **found, "flip": (table.schema.metadata or {}).get(b"flip") == b"true"}


def _from_npy(file: Path) -> dict[str, Any]:
    found = {"embeddings": np.load(file, allow_pickle=False)}
    labels = file.with_name("labels.npy")
    return found | ({"labels": np.load(labels, allow_pickle=False)} if labels.is_file() else {})


_READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npz": _from_npz,
    ".safetensors": _from_safetensors,
    ".parquet": _from_parquet,
    ".npy": _from_npy,
}
