import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import Server
from made_up import NAMES

from arcface_pl.checkpoints.atomic import PARTIAL
from arcface_pl.data import DataError
from arcface_pl.data.sources.catalog import FileSpec
from arcface_pl.data.sources.download import TimeLimits, download

LIMITS = TimeLimits(connect=10, read=10, total=30)
# Short only where the limit itself is what is tested: a busy machine is slow to answer, too.
IMPATIENT = {"hang": replace(LIMITS, connect=1), "stall": replace(LIMITS, read=0.8)}
NAME = NAMES[2]  # the test images, 23 kB: large enough to be cut in the middle


@pytest.fixture
def wanted(made_up) -> FileSpec:
    return made_up.spec.files[2]


def fetch(server: Server, wanted: FileSpec, folder: Path, *behaviours: str) -> bytes:
    limits = IMPATIENT.get(behaviours[0], LIMITS)
    download(wanted, [server.mirror(behaviour) for behaviour in behaviours], folder, limits)
    assert os.listdir(folder) == [wanted.name]
    return (folder / wanted.name).read_bytes()


def test_a_good_mirror_gives_the_file(server: Server, wanted: FileSpec, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert fetch(server, wanted, folder, "good") == server.files[NAME]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("behaviour", "reason"),
    {
        "403": "HTTP 403 Forbidden",
        "404": "HTTP 404 Not Found",
        "503": "HTTP 503 Service Unavailable",
        "hang": "no answer within 1 s",
        "stall": "broke off after [1-9][0-9]+ of [0-9]+ bytes: timed out",
        "cut": r"broke off after ([0-9]+) of [0-9]+ bytes",
        "wrong": "expected a file with md5 [0-9a-f]{32}, found [0-9a-f]{32}",
        "short": "expected a file with md5 [0-9a-f]{32}, found [0-9a-f]{32}",
        "empty": "expected a file with md5 [0-9a-f]{32}, found d41d8cd98f00b204e9800998ecf8427e",
    }.items(),
)
class TestABadMirror:
    def test_alone_it_is_named_with_its_reason(
        self, server: Server, wanted: FileSpec, tmp_path: Path, behaviour: str, reason: str
    ) -> None:
        with pytest.raises(DataError, match=f"{server.mirror(behaviour)}{NAME}: {reason}") as caught:
            download(wanted, [server.mirror(behaviour)], tmp_path, IMPATIENT.get(behaviour, LIMITS))
        assert "\n" not in str(caught.value)
        assert os.listdir(tmp_path) == []

    def test_the_next_one_is_asked(
        self, server: Server, wanted: FileSpec, tmp_path: Path, behaviour: str, reason: str
    ) -> None:
        assert fetch(server, wanted, tmp_path, behaviour, "good") == server.files[NAME]

    def test_the_next_run_succeeds(
        self, server: Server, wanted: FileSpec, tmp_path: Path, behaviour: str, reason: str
    ) -> None:
        with pytest.raises(DataError):
            download(wanted, [server.mirror(behaviour)], tmp_path, IMPATIENT.get(behaviour, LIMITS))
        assert fetch(server, wanted, tmp_path, "good") == server.files[NAME]


def test_a_wrong_length_does_not_matter_where_the_content_is_right(
    server: Server, wanted: FileSpec, tmp_path: Path
) -> None:
    assert fetch(server, wanted, tmp_path, "long") == server.files[NAME]


def test_every_mirror_is_named_when_all_fail(server: Server, wanted: FileSpec, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/403/.*HTTP 403.*; .*/404/.*HTTP 404"):
        download(wanted, [server.mirror("403"), server.mirror("404")], tmp_path, LIMITS)


def test_what_a_killed_process_left_is_removed(server: Server, wanted: FileSpec, tmp_path: Path) -> None:
    """But not what another host is downloading at this moment, on a shared disk without locks."""
    left, growing = (tmp_path / f".{NAME}.{each}{PARTIAL}" for each in ("old", "new"))
    for path in (left, growing):
        path.write_bytes(b"x" * 100)
    os.utime(left, (0, time.time() - LIMITS.total - 10))
    download(wanted, [server.mirror("good")], tmp_path, LIMITS)
    assert (tmp_path / NAME).read_bytes() == server.files[NAME]
    assert not left.exists()
    assert growing.read_bytes() == b"x" * 100


def test_hosts_without_locks_download_the_same_file(server: Server, wanted: FileSpec, tmp_path: Path) -> None:
    """Each into a file of its own: one that begins late would otherwise empty what another is about to rename."""
    with ThreadPoolExecutor(8) as pool:
        mirrors = [server.mirror("good")]
        for each in [pool.submit(download, wanted, mirrors, tmp_path, LIMITS) for _ in range(8)]:
            each.result()
            assert (tmp_path / NAME).read_bytes() == server.files[NAME]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.timeout(20)
def test_a_name_that_is_not_resolved_in_time(
    server: Server, wanted: FileSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: released.wait(20))
    with pytest.raises(DataError, match=r"no answer within 0\.5 s"):
        download(wanted, [server.mirror("good")], tmp_path, replace(LIMITS, connect=0.5))
    released.set()


@pytest.mark.timeout(20)
def test_an_endless_trickle_ends(server: Server, wanted: FileSpec, tmp_path: Path) -> None:
    limits = replace(LIMITS, total=0.6)
    with pytest.raises(DataError, match=r"not done after 0\.6 s"):
        download(wanted, [server.mirror("trickle")], tmp_path, limits)


def test_an_endless_file_does_not_fill_the_disk(
    server: Server, wanted: FileSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcface_pl.data.sources.download._MAX_BYTES", 1000)
    server.files[NAME] = bytes(10_000_000)
    with pytest.raises(DataError, match="sent more than 1000 bytes"):
        download(wanted, [server.mirror("good")], tmp_path, LIMITS)
    assert os.listdir(tmp_path) == []


@pytest.mark.timeout(20)
def test_a_name_that_does_not_resolve_fails_within_the_limit(wanted: FileSpec, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.invalid"):
        download(wanted, ["http://nowhere.invalid/"], tmp_path, LIMITS)


def test_nobody_listens(wanted: FileSpec, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Connection refused"):
        download(wanted, ["http://127.0.0.1:9/"], tmp_path, LIMITS)


def test_a_folder_that_cannot_be_made(server: Server, wanted: FileSpec, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=f"{tmp_path}.*cannot be written: Not a directory"):
        download(wanted, [server.mirror("good")], tmp_path / "file" / "sub", LIMITS)


def test_a_full_disk(server: Server, wanted: FileSpec, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(DataError, match="cannot be written: File too large"):
            download(wanted, [server.mirror("good"), server.mirror("good")], tmp_path, LIMITS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(server.requests) == 1, "another mirror does not help against a full disk"
    assert os.listdir(tmp_path) == []
