"""Writing files that a crash leaves whole: the old one or the new one, never half of either."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

__all__ = ["check_writable", "digest_fault", "replacing", "sweep", "write_checkpoint"]

PARTIAL = ".partial"
KEPT = {"last.ckpt": "previous.ckpt"}
"""Under which name the checkpoint that a new one replaces is kept."""

_MARK = b"sha256:"
_TRAILER = len(_MARK) + 64
_END_MARK, _END = b"PK\5\6", 22  # how the last record of a ZIP archive begins, and its length without a comment


@contextmanager
def replacing(path: Path, keep_as: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file beside ``path`` that takes its place when the body has ended well, and is on the disk by then.

    Args:
        path: The file to write.
        keep_as: Where the file that was at ``path`` goes.

    Raises:
        OSError: If it cannot be written; what is at ``path`` is then what was there before.
    """
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep_as is not None:
            _keep(path, keep_as)
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left in ``folder``."""
    for left in folder.glob(f".*{PARTIAL}"):
        left.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Make ``folder`` and write a file in it.

    Raises:
        OSError: If that cannot be done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = _partial(folder / "probe")
    probe.write_bytes(b"0")
    probe.unlink()


def write_checkpoint(content: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint as ``torch.save`` does, with the SHA-256 of what stands before it as its last 71 bytes.

    The digest lies in the comment of the ZIP archive that the file is, so that ``torch.load`` reads it as ever. Of a
    ``last.ckpt`` the one before it is kept as ``previous.ckpt``.

    Args:
        content: What is to be kept.
        path: The file; its folder is made where it is not there.

    Raises:
        OSError: If it cannot be written; what was at ``path`` is then untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, path.with_name(KEPT[path.name]) if path.name in KEPT else None) as file:
        writer = _DigestWriter(file)
        torch.save(content, writer)  # type: ignore[arg-type]  # it writes, and no more
        writer.finish()


def digest_fault(path: str | Path) -> str | None:
    """Compare a checkpoint with the digest in it.

    Args:
        path: A file from `write_checkpoint`, or any other.

    Returns:
        What is wrong, or None where the digest is right or the file has none.

    Raises:
        OSError: If it cannot be read.
    """
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END - _TRAILER))
        end = file.read()
        trailer = end[-_TRAILER:]
        if not trailer.startswith(_MARK):
            # An archive that announces a comment of this length had a digest.
            announced = end[end.rfind(_END_MARK) :][_END - 2 : _END] if _END_MARK in end else b""
            return "its SHA-256 is damaged" if announced == _TRAILER.to_bytes(2, "little") else None
        file.seek(0)
        digest, left = hashlib.sha256(), size - _TRAILER
        while left:
            chunk = file.read(min(left, 1 << 20))
            digest.update(chunk)
            left -= len(chunk)
    return None if trailer == _MARK + digest.hexdigest().encode() else "it fails its SHA-256"


class _DigestWriter:
    """What ``torch.save`` writes to: adds up the digest, and keeps the reason where a write fails."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._held = b""
        self._failure: OSError | None = None

    def write(self, data: Any) -> int:
        # The end is held back: finish() changes it.
        self._pass_on(self._held)
        self._held = bytes(data)
        return len(self._held)

    def flush(self) -> None:
        pass

    def finish(self) -> None:
        """Write the end, with the digest."""
        # An archive ends with the length of its comment, in two bytes.
        assert self._held[-2:] == b"\0\0"
        self._pass_on(self._held[:-2] + _TRAILER.to_bytes(2, "little"))
        self._pass_on(_MARK + self._digest.hexdigest().encode())
        if self._failure is not None:
            raise self._failure

    def _pass_on(self, data: bytes) -> None:
        if self._failure is not None:
            return
        try:
            self._digest.update(data)
            self._file.write(data)
        except OSError as error:
            # Raised in here it would come out of torch as a RuntimeError without the reason.
            self._failure = error


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}{PARTIAL}")


def _keep(path: Path, kept: Path) -> None:
    if not path.exists():
        return
    second = _partial(kept)
    second.unlink(missing_ok=True)
    with suppress(OSError):  # some file systems have no links: then there is one checkpoint fewer
        os.link(path, second)
        os.replace(second, kept)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
