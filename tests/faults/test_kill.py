"""Checkpoints survive kill -9 at any point of their writing, a full disk, a limit on files and a missing folder."""

import os
import random
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from saving_child import content

from arcface_pl.checkpoints.atomic import check_writable, sweep, write_checkpoint
from arcface_pl.checkpoints.reading import read_checkpoint

CHILD = Path(__file__).with_name("saving_child.py")
KILLS = 60


@pytest.fixture(params=["/tmp", "/dev/shm"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on the file system of the tests, and one on another."""
    if request.param == "/tmp":
        yield tmp_path
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no /dev/shm")
    made = Path(f"/dev/shm/arcface_pl-{os.getpid()}")
    made.mkdir()
    yield made
    shutil.rmtree(made)


@pytest.fixture
def moments() -> random.Random:
    """Draws the moments of the faults; printed, and taken from the environment to try them again."""
    seed = int(os.environ.get("ARCFACE_PL_FAULT_SEED", secrets.randbelow(1 << 32)))
    print(f"ARCFACE_PL_FAULT_SEED={seed}")
    return random.Random(seed)


def number_of(path: Path) -> int:
    """Read a checkpoint, and see that it is what was written."""
    found = read_checkpoint(path)
    written = content(found["number"])["state_dict"]
    assert all(torch.equal(weight, written[name]) for name, weight in found["state_dict"].items())
    return found["number"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_kill_loses_a_checkpoint(folder: Path, moments: random.Random) -> None:
    kill_writers(folder, moments, 0, KILLS)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("processes", [1, 2])
def test_no_kill_loses_a_checkpoint_of_a_sharded_head(tmp_path: Path, moments: random.Random, processes: int) -> None:
    """With two processes either or both are killed; the one that is left ends by itself."""
    kill_writers(tmp_path, moments, processes, 30)


def kill_writers(folder: Path, moments: random.Random, processes: int, kills: int) -> None:
    command = [sys.executable, str(CHILD), str(folder), str(processes)]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    torn, last = 0, -1
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for _ in range(kills):
            child.stdin.write(f"{last + 1}\n")
            while not (line := child.stdout.readline()).startswith("pid"):
                last = int(line)
            time.sleep(moments.uniform(0, 0.15))
            pids = [int(pid) for pid in line.split()[1:]]
            for pid in moments.sample(pids, moments.randint(1, len(pids))):
                os.kill(pid, signal.SIGKILL)
            while (line := child.stdout.readline()) != "gone\n":
                last = int(line)
            left = {path.name for path in folder.iterdir()}
            torn += any(name.endswith(".partial") for name in left)
            if last >= 0:
                # What was reported as written is there; the one after it may be there too.
                last, promised = number_of(folder / "last.ckpt"), last
                assert last - promised in (0, 1)
            if "previous.ckpt" in left:
                assert number_of(folder / "previous.ckpt") in (last - 1, last)
            sweep(folder)
            assert {path.name for path in folder.iterdir()} <= {"last.ckpt", "previous.ckpt"}
        child.stdin.close()
    assert torn > 0  # kills do hit the writing
    print(f"{kills} kills, {torn} in the middle of a file, {last} checkpoints written, none lost")


def check_untouched(path: Path, before: bytes, reason: str) -> None:
    with pytest.raises(OSError, match=reason):
        write_checkpoint(content(1), path)
    assert path.read_bytes() == before
    assert number_of(path) == 0
    assert {each.name for each in path.parent.iterdir()} == {"last.ckpt"}


def test_a_limit_on_the_size_of_files_leaves_the_checkpoint_before(tmp_path: Path, moments: random.Random) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(content(0), path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for _ in range(20):
        # Python ignores the signal that a write past the limit sends, and sees the error.
        resource.setrlimit(resource.RLIMIT_FSIZE, (moments.randrange(len(before)), hard))
        try:
            check_untouched(path, before, "File too large")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2560k", "tmpfs", str(tmp_path)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a file system can only be mounted by root, and not in every container")
    try:
        path = tmp_path / "last.ckpt"
        write_checkpoint(content(0), path)
        before = path.read_bytes()
        (tmp_path / "other").write_bytes(b"0" * (1 << 20))
        with pytest.raises(OSError, match="No space left on device"):
            write_checkpoint(content(1), path)
        assert path.read_bytes() == before
        assert {each.name for each in tmp_path.iterdir()} == {"last.ckpt", "other"}
        (tmp_path / "other").unlink()
        write_checkpoint(content(2), path)
        assert number_of(path) == 2
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("name", ["file/checkpoints", "/proc/checkpoints"])
def test_a_folder_that_takes_no_files_is_found_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="Not a directory|No such file"):
        check_writable(tmp_path / name)


def test_a_folder_without_permission_is_found_out(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        check_writable(tmp_path)
    tmp_path.chmod(0o700)
