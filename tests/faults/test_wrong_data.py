"""Data files with real damage, and folders that cannot be written: one line, and nothing partial taken for whole."""

import gzip
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "data"))
from loopback import Server, serve
from made_up import MadeUp, idx, make_up

from arcface_pl.checkpoints.atomic import PARTIAL
from arcface_pl.data import DataError
from arcface_pl.data.sources.catalog import DatasetSpec
from arcface_pl.data.sources.download import TimeLimits
from arcface_pl.data.sources.find import fetch_dataset, find_folder, load_dataset

LIMITS = TimeLimits(connect=5, read=5, total=30)


@pytest.fixture(scope="module")
def made_up() -> MadeUp:
    return make_up()


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ARCFACE_PL_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server(made_up: MadeUp) -> Iterator[Server]:
    with serve(made_up.files) as running:
        yield running


def check_refused(spec: DatasetSpec, folder: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(spec, folder)
    assert f"{folder / name}: " in str(caught.value)
    assert "\n" not in str(caught.value)


def zeroed(content: bytes, image: int) -> bytes:
    first = 16 + image * 784
    return content[:first] + bytes(784) + content[first + 784 :]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("fault", ["zeroed image", "label 255", "fewer labels", "swapped", "longer", "other set"])
def test_what_stays_silent_elsewhere(made_up: MadeUp, tmp_path: Path, fault: str, packed: bool) -> None:
    """The faults of files that torchvision's reader lets pass."""
    folder = made_up.write(tmp_path)
    images, labels, test_images, test_labels = (
        idx(part) for pair in zip(made_up.images, made_up.labels, strict=True) for part in pair
    )
    number, content = {
        "zeroed image": (0, zeroed(images, 7)),
        "label 255": (1, labels[:20] + b"\xff" + labels[21:]),
        "fewer labels": (1, idx(made_up.labels[0][:-1])),
        "swapped": (2, images),
        "longer": (3, test_labels + b"\0"),
        "other set": (2, idx(made_up.images[1].flip(0))),
    }[fault]
    assert content not in (images, labels, test_images, test_labels)[number : number + 1]
    name = made_up.spec.files[number].name
    (folder / name).unlink()
    name = name if packed else name.removesuffix(".gz")
    (folder / name).write_bytes(gzip.compress(content) if packed else content)
    check_refused(made_up.spec, folder, name)


def test_every_flipped_bit_of_packed_labels(made_up: MadeUp, tmp_path: Path) -> None:
    """Some bits of a gzip header say nothing, such as the time: the content is then what it was."""
    folder = made_up.write(tmp_path)
    spec, path = made_up.spec, folder / made_up.spec.files[3].name
    genuine = path.read_bytes()
    for bit in range(8 * len(genuine)):
        changed = bytearray(genuine)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            _, test = load_dataset(spec, folder)
        except DataError:
            continue
        assert torch.equal(test.labels, made_up.labels[1].long())


def test_every_length_of_packed_labels(made_up: MadeUp, tmp_path: Path) -> None:
    folder = made_up.write(tmp_path)
    path = folder / made_up.spec.files[3].name
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        check_refused(made_up.spec, folder, path.name)


def test_random_damage_of_images(made_up: MadeUp, tmp_path: Path, rng: random.Random) -> None:
    folder = made_up.write(tmp_path)
    path = folder / made_up.spec.files[0].name
    genuine = path.read_bytes()
    for _ in range(100):
        first, last = sorted(rng.sample(range(20, len(genuine)), 2))
        path.write_bytes(genuine[:first] + rng.randbytes(last - first) + genuine[last:])
        check_refused(made_up.spec, folder, path.name)


def test_gzip_with_something_after_it(made_up: MadeUp, tmp_path: Path) -> None:
    folder = made_up.write(tmp_path)
    path = folder / made_up.spec.files[3].name
    genuine = path.read_bytes()
    for tail in (b"garbage", genuine, gzip.compress(b"more")):
        path.write_bytes(genuine + tail)
        check_refused(made_up.spec, folder, path.name)


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_bomb_is_not_unpacked(made_up: MadeUp, tmp_path: Path) -> None:
    folder = made_up.write(tmp_path)
    path = folder / made_up.spec.files[3].name
    path.write_bytes(gzip.compress(bytes(1 << 20)) * 4096)  # 4 GiB from 4 MB
    code = (
        "import resource, sys\n"
        "import torch\n"
        "from pathlib import Path\n"
        "from arcface_pl.data import DataError\n"
        "from arcface_pl.data.sources.catalog import FileSpec\n"
        "from arcface_pl.data.sources.idx import read_labels\n"
        "resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))\n"
        "try: read_labels(Path(sys.argv[1]), FileSpec('x.gz', '0'), 30, 10)\n"
        "except DataError as error: print(error)\n"
        # Not ru_maxrss, which begins with what the process that started this one had
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "assert int(peak.split()[1]) < 2 << 20, 'more than 2 GiB'\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "expected" in done.stdout


@pytest.mark.parametrize("kind", ["a folder", "a loop of links", "a dangling link", "a pipe"])
def test_what_is_no_file_counts_as_missing(made_up: MadeUp, tmp_path: Path, kind: str) -> None:
    path = made_up.write(tmp_path / "given") / made_up.spec.files[0].name
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)  # opening it would wait for ever
    else:
        path.symlink_to(path.name if kind == "a loop of links" else "nowhere")
    assert find_folder(made_up.spec, "given") is None


def test_a_folder_in_a_downloads_way(made_up: MadeUp, server: Server, tmp_path: Path) -> None:
    spec = replace(made_up.spec, mirrors=(server.mirror("good"),))
    folder = tmp_path / "given" / spec.folder
    # A link in the place of the file is replaced, as is right
    (folder / spec.files[0].name).mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be written"):
        fetch_dataset(spec, "given", LIMITS)
    assert [path.name for path in folder.iterdir()] == [spec.files[0].name]


def test_a_file_that_may_not_be_read(made_up: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root no permission is missing: the refusal is put in the place where the system makes it."""
    folder = made_up.write(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("pathlib.Path.open", refuse)
    check_refused(made_up.spec, folder, made_up.spec.files[0].name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 32 kB, full after the first files; skipped where none may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)], capture_output=True
        ).returncode
    ):
        pytest.skip("nothing may be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(made_up: MadeUp, server: Server, small_disk: Path) -> None:
    spec = replace(made_up.spec, mirrors=(server.mirror("good"),))
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        fetch_dataset(spec, small_disk, LIMITS)
    assert find_folder(spec, small_disk) is None
    assert not list(small_disk.rglob(f"*{PARTIAL}"))
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    load_dataset(spec, fetch_dataset(spec, small_disk, LIMITS))


def test_a_read_only_disk(made_up: MadeUp, server: Server, small_disk: Path) -> None:
    spec = replace(made_up.spec, mirrors=(server.mirror("good"),))
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    folder = made_up.write(small_disk / "whole")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    load_dataset(spec, find_folder(spec, small_disk / "whole"))
    with pytest.raises(DataError, match="cannot be written: Read-only file system"):
        fetch_dataset(spec, small_disk, LIMITS)
    assert folder.is_dir()


def prepare(spec: DatasetSpec, folder: str) -> None:
    load_dataset(spec, fetch_dataset(spec, folder, LIMITS))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_job_that_is_killed_while_downloading(made_up: MadeUp, server: Server, tmp_path: Path, rng) -> None:
    """Its lock goes with it, and the next one takes over what came."""
    spec = replace(made_up.spec, mirrors=(server.mirror("slow"),))
    for number in range(5):
        data_dir = tmp_path / f"given {number}"
        first = multiprocessing.get_context("fork").Process(target=prepare, args=(spec, str(data_dir)))
        first.start()
        first.join(rng.uniform(0, 1.3))
        first.kill()
        first.join()
        prepare(spec, str(data_dir))
        there = [path for path in (data_dir / spec.folder).iterdir() if path.suffix != ".partial"]
        assert sorted(path.name for path in there) == sorted(made_up.files)
        left = [path for path in (data_dir / spec.folder).iterdir() if path not in there]
        assert len(left) <= 1  # what a killed job left goes with a download later than any that may still run
        for path in left:
            os.utime(path, (0, 0))
        there[0].unlink()
        prepare(spec, str(data_dir))
        assert sorted(path.name for path in (data_dir / spec.folder).iterdir()) == sorted(made_up.files)
