"""Atomic writes: after a crash the old file or the new one is there; a numbered folder has one owner."""

import itertools
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from arcface_pl.errors import FileError

PARTIAL = ".partial"
KEPT = {"last.ckpt": "previous.ckpt"}
"""Where the checkpoint that a new one replaces is kept."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file next to ``path``; once the body has succeeded, sync it to disk and rename it to ``path``.

    Args:
        path: The file to write.

    Raises:
        OSError: If it cannot be written; names ``path``. The file there is then unchanged.
    """
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _put(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial)):  # a full disk names no file
            error.filename, error.filename2 = str(path), None
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``: a hard link, or a copy where the file system has no links.

    The file that was at ``target`` is replaced atomically, and a ``last.ckpt`` kept as ``previous.ckpt``.

    Args:
        source: A file that is only ever replaced, not changed in place.
        target: A path on the same file system.

    Raises:
        OSError: If neither works. The file at ``target`` is then unchanged.
    """
    partial = _partial(target)
    try:
        os.link(source, partial)
    except OSError:
        with source.open("rb") as content, replacing(target) as file:
            shutil.copyfileobj(content, file, 1 << 20)
    else:
        _put(partial, target)


def sweep(folder: Path, older_than: float = 0.0) -> None:
    """Remove the temporary files that killed writers left in ``folder``.

    Args:
        folder: The folder.
        older_than: Seconds since the last write, where others may be writing.
    """
    for left in folder.glob(f".*{PARTIAL}"):
        with suppress(FileNotFoundError):  # another process was faster
            if not older_than or time.time() - left.stat().st_mtime > older_than:
                left.unlink()


def check_writable(folder: Path) -> None:
    """Make ``folder`` and write a file in it.

    Raises:
        OSError: If that fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = _partial(folder / "probe")
    probe.write_bytes(b"0")
    probe.unlink()


def claim_folder(root: Path, suffix: str = "") -> Path:
    """Create ``root/version_N``, numbered one past the highest there.

    Creation is exclusive: of several processes and machines that call this at once, each gets another folder.

    Args:
        root: Parent of the folder, created if needed.
        suffix: Follows the number.

    Raises:
        OSError: If it cannot be created.
    """
    root.mkdir(parents=True, exist_ok=True)
    numbers = [int(found.group(1)) for each in root.iterdir() if (found := re.match(r"version_(\d+)", each.name))]
    # Counted on, not listed again: a shared disk may show a list that is a minute old
    for number in itertools.count(max(numbers, default=-1) + 1):
        folder = root / f"version_{number}{suffix}"
        try:
            folder.mkdir()
        except FileExistsError:  # another process was faster
            continue
        return folder
    raise AssertionError


def missing_folders(folder: Path) -> list[Path]:
    """Return ``folder`` and its parents, innermost first, as far as they do not exist."""
    return [each for each in (folder, *folder.parents) if not os.path.lexists(each)]


def unused_path(path: Path) -> Path:
    """Return ``path``, or, where there is a file, the first of ``NAME-1``, ``NAME-2``, ... that is not."""
    number, unused = 0, path
    while os.path.lexists(unused):
        number += 1
        unused = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return unused


def write_checkpoint(content: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint atomically; the file is what ``torch.save`` writes. The old ``last.ckpt`` is kept.

    Args:
        content: The checkpoint's dictionary.
        path: The file; its folder is made if needed.

    Raises:
        OSError: If it cannot be written. The file at ``path`` is then unchanged.
    """
    import torch  # the rest of this file does without: claiming a folder need not wait for it

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # a full disk, say: torch's ZIP writer then fails to close
                raise error.__context__ from None
            raise


@contextmanager
def writing(path: str | Path, kind: type[FileError], remedy: str) -> Iterator[None]:
    """Turn an `OSError` of the body into an error about ``path``.

    Args:
        path: The file or folder that the body writes.
        kind: The error's class.
        remedy: What to do about it.
    """
    try:
        yield
    except OSError as error:
        raise kind(path, f"cannot be written ({error.strerror})", remedy) from error


def _partial(path: Path) -> Path:
    # A name of its own: two hosts that write one file on a shared disk would write into one another's
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")


def _put(partial: Path, path: Path) -> None:
    """Rename a finished temporary file to ``path``; the file replaced there is kept if `KEPT` lists its name."""
    if path.name in KEPT and path.exists():
        kept = path.with_name(KEPT[path.name])
        second = _partial(kept)
        with suppress(OSError):  # without hard links there is no previous.ckpt
            os.link(path, second)
            _rename(second, kept)
    _rename(partial, path)
    if os.name != "nt":  # Windows cannot open a folder
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _rename(source: Path, target: Path) -> None:
    os.replace(source, target)
    source.unlink(missing_ok=True)  # rename() does nothing between two links to one file
