"""Result files of commands: a file that this package did not write is never replaced."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from arcface_pl.checkpoints.atomic import missing_folders, replacing, unused_path
from arcface_pl.errors import FileError, SettingsError, expected

MARK = b"written by arcface_pl"
"""Stands in every result file whose format has room for it."""


def is_ours(path: Path, mark: bytes = MARK) -> bool:
    """Whether a file can be replaced without loss: it holds ``mark``, or nothing."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return True
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(mark) >= 0


def check_result(option: str, path: Path, mark: bytes = MARK) -> None:
    """Refuse a path of the user's that holds anything but a file that this package wrote.

    Call it before the work whose result goes there.

    Args:
        option: The flag that names the path.
        path: The path.
        mark: What every file of this kind holds.

    Raises:
        SettingsError: If there is something else, or its folder is a file.
    """
    accepted = "a new path, or a file that this command wrote"
    try:
        if os.path.lexists(path) and not is_ours(path, mark):
            there = "It cannot be written: it is a folder" if path.is_dir() else "What is there is not replaced"
            raise SettingsError(expected(option, str(path), accepted, there))
        parent = next(each for each in path.absolute().parents if os.path.lexists(each))
    except OSError as error:
        raise SettingsError(expected(option, str(path), accepted, str(error.strerror))) from error
    if not parent.is_dir():
        raise SettingsError(expected(option, str(path), f"a path in a folder; {parent} is a file"))


@contextmanager
def writing_result(
    path: Path,
    mark: bytes = MARK,
    *,
    option: str | None = None,
    replace: bool = False,
    remedy: str = "give a folder that can be written",
) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a result file, which takes its name once the body has succeeded.

    Args:
        path: Where it goes; its folder is made if needed.
        mark: What every file of this kind holds.
        option: The flag by which the user chose ``path``: a file of ours is replaced there, anything else refused.
            Unset for a default name: the first unused of ``NAME``, ``NAME-1``, ``NAME-2``, ... is taken, of processes
            that do so at once by each another.
        replace: With a default name, replace a file of ours. For the folder of a run, whose newest result it holds.
        remedy: What to do if it cannot be written.

    Yields:
        The file, and its path.

    Raises:
        SettingsError: As `check_result`.
        FileError: If it cannot be written. Every file is then unchanged.
    """
    claimed = False
    if option is not None:
        check_result(option, path, mark)
    made = missing_folders(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if option is None and not (replace and is_ours(path, mark)):
            path, claimed = _claim(path), True
        with replacing(path) as file:
            yield file, path
    except BaseException as error:
        if claimed:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # others hold files by now
            for folder in made:
                folder.rmdir()
        if isinstance(error, OSError):
            raise FileError(path, f"cannot be written ({error.strerror})", remedy) from error
        raise


def _claim(path: Path) -> Path:
    """Create an empty file under the first unused name; creation is exclusive."""
    while True:
        unused = unused_path(path)
        try:
            unused.open("xb").close()
        except FileExistsError:  # another process was faster
            continue
        return unused
