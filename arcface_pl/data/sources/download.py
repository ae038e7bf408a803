"""Fetching a file so that it either is there whole, with the right checksum, or is not there at all."""

import contextlib
import hashlib
import http.client
import logging
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from arcface_pl.data.sources.catalog import FileSpec
from arcface_pl.errors import DataError

__all__ = ["TimeLimits", "download", "md5_of"]

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 16
_MAX_BYTES = 1 << 28  # the largest known file has 163 MiB; a server that never ends must not fill the disk


@dataclass(frozen=True)
class TimeLimits:
    """How long a download may take, in seconds.

    Attributes:
        connect: From the name's resolution to the first bytes of the answer, for each mirror.
        read: Without a single byte.
        total: For one file from one mirror.
    """

    connect: float = 4.0
    read: float = 10.0
    total: float = 1800.0


class _MirrorError(Exception):
    """Why one mirror did not give the file; the next one is asked."""


def download(file: FileSpec, mirrors: Sequence[str], folder: Path, limits: TimeLimits) -> None:
    """Fetch a file from the first mirror that gives it.

    What has come is kept beside the target as ``<name>.part`` when a connection breaks, and the next attempt, of this
    run or a later one, asks for the rest only. One process at a time may do this in a folder.

    Args:
        file: Name and checksum.
        mirrors: Addresses that the name is appended to, asked in this order.
        folder: Where the file is to lie; created when the first bytes come.
        limits: How long to wait.

    Raises:
        DataError: If no mirror gives the file, or the folder cannot be written; names every mirror and its reason.
    """
    part = folder / f"{file.name}.part"
    reasons = []
    try:
        for mirror in mirrors:
            url = mirror + file.name
            try:
                if part.is_file() and _fetch_verified(url, file, part, limits):
                    break
                # A part that did not lead to the right file says nothing about what the mirror has.
                if _fetch_verified(url, file, part, limits):
                    break
            except _MirrorError as error:
                reasons.append(f"{url}: {error}")
                _LOG.info("%s: %s", url, error)
        else:
            raise DataError("; ".join(reasons))
        _publish(part, folder / file.name)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()  # a full disk should not stay full
        raise DataError(f"{folder / file.name}: cannot be written: {error.strerror or error}") from error


def md5_of(path: Path) -> str:
    """Compute a file's md5, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _fetch_verified(url: str, file: FileSpec, part: Path, limits: TimeLimits) -> bool:
    """Fetch into ``part``; True with the right checksum, False when a resumed part led to another one."""
    resumed = part.is_file()
    broken = _fetch(url, part, limits)
    found = md5_of(part)
    if found == file.md5:  # also where the server announced a wrong length
        return True
    if broken is None:
        part.unlink()
        if resumed:
            return False
    raise _MirrorError(broken or f"expected a file with the md5 {file.md5}, found {found}")


def _fetch(url: str, part: Path, limits: TimeLimits) -> str | None:
    """Append the rest of a file to ``part``; returns why it broke off, or None when the answer was complete."""
    deadline = time.monotonic() + limits.total
    have = part.stat().st_size if part.is_file() else 0
    with _open(url, have, limits) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0
        announced = response.headers.get("Content-Length")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab" if have else "wb") as stream, _progress(url, have, announced) as progress:
            while True:
                try:
                    chunk = response.read1(_CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    return f"broke off after {stream.tell()} bytes: {_reason(error)}"
                if not chunk:
                    break
                stream.write(chunk)
                progress.update(progress.task_ids[0], advance=len(chunk))
                if time.monotonic() > deadline:
                    return f"not done after {limits.total:g} s"
                if stream.tell() > _MAX_BYTES:
                    stream.truncate(0)
                    raise _MirrorError(f"more than {_MAX_BYTES} bytes came")
            if announced and stream.tell() - have < int(announced):
                return f"broke off after {stream.tell()} of {have + int(announced)} bytes"
    return None


def _open(url: str, have: int, limits: TimeLimits) -> http.client.HTTPResponse:
    """Open a connection within the time limit, which covers resolving the name: that alone can hang for minutes."""
    headers = {"User-Agent": "arcface_pl", "Accept-Encoding": "identity"} | (
        {"Range": f"bytes={have}-"} if have else {}
    )
    request = urllib.request.Request(url, headers=headers)
    answer = _within(limits.connect, lambda: urllib.request.urlopen(request, timeout=limits.read))
    if isinstance(answer, urllib.error.HTTPError):
        answer.close()
        if have and answer.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _open(url, 0, limits)  # the part is as long as the file, or longer, and wrong
    if isinstance(answer, Exception):
        raise _MirrorError(_reason(answer))
    return answer


def _within(seconds: float, connect: Callable[[], Any]) -> Any:
    """Run ``connect`` in a thread of its own; returns its answer or exception, and leaves it behind when late."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    late = threading.Event()

    def run() -> None:
        try:
            answer = connect()
        except Exception as error:
            answer = error
        answers.put(answer)
        if late.is_set() and hasattr(answer, "close"):
            answer.close()

    threading.Thread(target=run, daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        late.set()
        return TimeoutError(f"no answer within {seconds:g} s")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _progress(url: str, have: int, announced: str | None) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    progress.add_task(f"Downloading {url}", completed=have, total=have + int(announced) if announced else None)
    return progress


def _publish(part: Path, target: Path) -> None:
    """Give a complete file its name, so that not even a power cut leaves half of it there."""
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(part, target)
