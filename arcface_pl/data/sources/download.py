"""Download a file so that it is either there in full, with the right checksum, or not there at all."""

import hashlib
import http.client
import logging
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from arcface_pl.checkpoints.atomic import replacing, sweep
from arcface_pl.data.sources.catalog import FileSpec
from arcface_pl.errors import DataError

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 16
_MAX_BYTES = 1 << 28  # the largest known file has 163 MiB; an endless answer must not fill the disk


@dataclass(frozen=True)
class TimeLimits:
    """How long a download may take, in seconds.

    Attributes:
        connect: From resolving the host name to the first bytes of the answer, per mirror.
        read: Between two chunks of data.
        total: Per file and mirror.
    """

    connect: float = 4.0
    read: float = 10.0
    total: float = 1800.0


class _MirrorError(Exception):
    """Why a mirror did not deliver the file; the next one is tried."""


def download(file: FileSpec, mirrors: Sequence[str], folder: Path, limits: TimeLimits) -> None:
    """Download a file from the first mirror that has it.

    The file is written under a temporary name and renamed once its checksum is right. Several processes or hosts that
    download it into one folder do not disturb one another; a lock of the caller's spares the traffic.

    Args:
        file: Name and checksum.
        mirrors: URLs that the name is appended to, tried in this order.
        folder: Destination; created if necessary.
        limits: Time limits.

    Raises:
        DataError: If no mirror has the file (lists each mirror with its reason), or the folder cannot be written.
    """
    reasons = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder, older_than=limits.total)
        for url in (mirror + file.name for mirror in mirrors):
            try:
                with replacing(folder / file.name) as stream:
                    _fetch(url, file.md5, stream, limits)
            except _MirrorError as error:
                reasons.append(f"{url}: {error}")
                _LOG.info("%s: %s", url, error)
            else:
                return
    except OSError as error:
        raise DataError(f"{folder / file.name}: cannot be written: {error.strerror or error}") from error
    raise DataError("; ".join(reasons))


def md5_of(path: Path) -> str:
    """Compute a file's md5, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _fetch(url: str, md5: str, stream: BinaryIO, limits: TimeLimits) -> None:
    """Write the content of ``url`` to ``stream``; raises _MirrorError if it does not have that md5."""
    deadline = time.monotonic() + limits.total
    digest, received, fault = hashlib.md5(usedforsecurity=False), 0, ""
    with _open(url, limits) as response:
        length = response.headers.get("Content-Length", "")
        announced = int(length) if length.isdecimal() else None
        with _progress(url, announced) as progress:
            while True:
                try:
                    chunk = response.read1(_CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    fault = f": {_reason(error)}"
                    break
                if not chunk:
                    break
                stream.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                progress.update(progress.task_ids[0], advance=len(chunk))
                if time.monotonic() > deadline:
                    raise _MirrorError(f"not done after {limits.total:g} s")
                if received > _MAX_BYTES:
                    raise _MirrorError(f"sent more than {_MAX_BYTES} bytes")
    if digest.hexdigest() == md5:  # even where the server announced another length
        return
    if fault or (announced and received < announced):
        raise _MirrorError(f"broke off after {received} of {announced or 'unknown'} bytes{fault}")
    raise _MirrorError(f"expected a file with md5 {md5}, found {digest.hexdigest()}")


def _open(url: str, limits: TimeLimits) -> http.client.HTTPResponse:
    """Connect within the time limit, which includes resolving the name: that alone can hang for minutes."""
    request = urllib.request.Request(url, headers={"User-Agent": "arcface_pl", "Accept-Encoding": "identity"})
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    late = threading.Event()

    def connect() -> None:
        try:
            answer: Any = urllib.request.urlopen(request, timeout=limits.read)
        except Exception as error:
            answer = error
        answers.put(answer)
        if late.is_set() and hasattr(answer, "close"):
            answer.close()

    threading.Thread(target=connect, daemon=True).start()
    try:
        answer = answers.get(timeout=limits.connect)
    except queue.Empty:
        late.set()
        raise _MirrorError(f"no answer within {limits.connect:g} s") from None
    if isinstance(answer, Exception):
        raise _MirrorError(_reason(answer)) from answer
    return answer


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _progress(url: str, announced: int | None) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    progress.add_task(f"Downloading {url}", total=announced)
    return progress
