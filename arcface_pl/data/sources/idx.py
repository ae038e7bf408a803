"""Read IDX files, the format of MNIST, checking header, size, values and checksum."""

import gzip
import hashlib
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from arcface_pl.data.sources.catalog import FileSpec
from arcface_pl.data.sources.download import md5_of
from arcface_pl.errors import DataError

_UNSIGNED_BYTE = 0x08


def read_images(path: Path, spec: FileSpec, count: int, size: int) -> Tensor:
    """Read an IDX file of square grey images.

    Args:
        path: The file, plain or with the suffix ``.gz``.
        spec: Its checksums.
        count: Number of images.
        size: Height and width of the images, in pixels.

    Returns:
        (count, 1, size, size) uint8.

    Raises:
        DataError: If the file is missing or differs.
    """
    return read_idx(path, spec, (count, size, size)).unsqueeze(1)


def read_labels(path: Path, spec: FileSpec, count: int, num_classes: int) -> Tensor:
    """Read an IDX file of labels.

    Args:
        path: The file, plain or with the suffix ``.gz``.
        spec: Its checksums.
        count: Number of labels.
        num_classes: Labels must be below this.

    Returns:
        (count,) int64.

    Raises:
        DataError: If the file is missing or differs.
    """
    return read_idx(path, spec, (count,), limit=num_classes).long()


def read_idx(path: Path, spec: FileSpec, shape: tuple[int, ...], limit: int = 256) -> Tensor:
    """Read an IDX file of unsigned bytes. Checks run in the order that gives the clearest message.

    Args:
        path: The file, plain or with the suffix ``.gz``.
        spec: Its checksums.
        shape: Its dimensions.
        limit: Values must be below this.

    Returns:
        A uint8 tensor of ``shape``.

    Raises:
        DataError: If the file is missing or differs.
    """
    header = 4 + 4 * len(shape)
    content = _read(path, header + torch.Size(shape).numel())
    if len(content) < header:
        raise DataError(f"{path}: expected an IDX header of {header} bytes, found a file of {len(content)} bytes")
    magic = bytes((0, 0, _UNSIGNED_BYTE, len(shape)))
    if content[:4] != magic:
        raise DataError(f"{path}: expected the magic number 0x{magic.hex()}, found 0x{content[:4].hex()}")
    found = struct.unpack(f">{len(shape)}I", content[4:header])
    if found != shape:
        raise DataError(f"{path}: expected the dimensions {_by(shape)}, found {_by(found)}")
    data = torch.frombuffer(content, dtype=torch.uint8)[header:]
    if len(data) != (expected := torch.Size(shape).numel()):
        raise DataError(f"{path}: expected {expected} bytes after the header, found {len(data)}")
    if limit < 256 and int(data.max()) >= limit:
        position = int((data >= limit).nonzero()[0])
        raise DataError(
            f"{path}: expected labels from 0 to {limit - 1}, found {int(data[position])} at position {position}"
        )
    _check_md5(path, spec, content)
    return data.view(shape)


def _read(path: Path, limit: int) -> bytearray:
    """Read the unpacked content, at most one byte more than ``limit``: a few packed bytes can expand to gigabytes."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            # torch.frombuffer needs writable memory.
            return bytearray(stream.read(limit + 1))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        size = path.stat().st_size
        raise DataError(f"{path}: expected a complete gzip file, found {size} bytes that are not: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _check_md5(path: Path, spec: FileSpec, content: bytearray) -> None:
    """Check the checksum of the content, if known, since a file may have been repacked; otherwise that of the file."""
    expected = spec.content_md5 or (spec.md5 if path.suffix == ".gz" else None)
    if expected is None:
        return
    found = hashlib.md5(content, usedforsecurity=False).hexdigest() if spec.content_md5 else md5_of(path)
    if found != expected:
        of = "content with the md5" if spec.content_md5 else "the md5"
        raise DataError(
            f"{path}: expected {of} {expected}, found {found}; the file is damaged: delete it and run again"
        )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
