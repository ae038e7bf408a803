"""Embeddings with labels, paths and ids as one file: npz, safetensors or Parquet, by its suffix."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from arcface_pl.checkpoints.results import MARK
from arcface_pl.errors import DataError, expected
from arcface_pl.recognizer.answers import Embeddings


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings of N pictures, and what they are of.

    Attributes:
        embeddings: (N, D) float32, unit rows.
        labels: (N,) int64, class number; -1 if unknown.
        class_names: Names of the classes, in label order.
        paths: N paths; empty text if a picture is not a file.
        ids: (N,) int64, position of the picture among those that were asked for.
        flip: Whether each embedding is that of a picture together with its mirror image.
        made_by: Fingerprint or name of what made the embeddings; None if unknown.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    class_names: list[str]
    paths: list[str]
    ids: np.ndarray
    flip: bool = False
    made_by: str | None = None

    def as_pictures(self) -> Embeddings:
        """Return the embeddings as `Recognizer` takes them."""
        return Embeddings(self.embeddings, self.made_by)

    def rows_of_classes(self) -> dict[str, np.ndarray]:
        """Return the positions of each class's embeddings, by its name."""
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(self.classes):
            rows.setdefault(name, []).append(row)
        return {name: np.array(found) for name, found in rows.items()}

    @property
    def classes(self) -> list[str]:
        """Name of each picture's class; empty text if unknown."""
        return [self.class_names[label] if label >= 0 else "" for label in self.labels.tolist()]


def check_rows(name: str, rows: Tensor) -> None:
    """Refuse embeddings (N, D) that have no direction."""
    usable = rows.isfinite().all(1) & (rows != 0).any(1)
    if not usable.all():
        row = int((~usable).nonzero()[0])
        got = "a length of 0" if rows[row].isfinite().all() else "NaN or inf"
        raise DataError(expected(f"{name}, row {row}", got, "finite numbers, not all of them 0"))


def to_file(table: EmbeddingTable, suffix: str) -> bytes:
    """Return the content of a file.

    Args:
        table: What it holds.
        suffix: One of `SUFFIXES`.

    Raises:
        ImportError: If Parquet is asked for and pyarrow is not installed.
    """
    return _WRITERS[suffix](table)


def _to_npz(table: EmbeddingTable) -> bytes:
    file = io.BytesIO()
    np.savez(
        file,
        embeddings=table.embeddings,
        labels=table.labels,
        classes=np.array(table.classes, dtype=np.str_),
        paths=np.array(table.paths, dtype=np.str_),
        ids=table.ids,
        flip=np.array(table.flip),
        made_by=np.array(table.made_by or ""),
        producer=np.array(MARK),
    )
    return file.getvalue()


def _to_safetensors(table: EmbeddingTable) -> bytes:
    from safetensors.numpy import save

    tensors = {"embeddings": table.embeddings, "labels": table.labels, "ids": table.ids}
    texts = {"class_names": json.dumps(table.class_names), "paths": json.dumps(table.paths)}
    texts |= {"flip": json.dumps(table.flip), "made_by": table.made_by or "", "producer": MARK.decode()}
    return save({name: np.ascontiguousarray(each) for name, each in tensors.items()}, texts)


def _to_parquet(table: EmbeddingTable) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = table.embeddings.shape[1]
    columns = {
        "id": pa.array(table.ids),
        "path": pa.array(list(map(_encodable, table.paths))),
        "label": pa.array(table.labels),
        "class": pa.array(list(map(_encodable, table.classes))),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(table.embeddings.ravel()), width),
    }
    facts = {b"producer": MARK, b"flip": json.dumps(table.flip).encode(), b"made_by": (table.made_by or "").encode()}
    file = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(facts), file)
    return file.getvalue()


def _encodable(text: str) -> str:
    """Escape what UTF-8 lacks: bytes of a file or class name that are not text."""
    return text.encode(errors="backslashreplace").decode()


_WRITERS: dict[str, Callable[[EmbeddingTable], bytes]] = {
    ".npz": _to_npz,
    ".safetensors": _to_safetensors,
    ".parquet": _to_parquet,
}
SUFFIXES = tuple(_WRITERS)
