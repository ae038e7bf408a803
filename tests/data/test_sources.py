import io
import multiprocessing
import os
import pickle
import tarfile
import threading
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback import Server
from made_up import MadeUp, idx, md5

from arcface_pl.data import DataError
from arcface_pl.data.sources.catalog import CATALOG, DatasetSpec, FileSpec
from arcface_pl.data.sources.download import TimeLimits
from arcface_pl.data.sources.find import fetch_dataset, find_folder, how_to_get, load_dataset

LIMITS = TimeLimits(connect=2, read=2, total=20)


SHIPPED = dict(CATALOG)  # the tests work without its mirrors


def test_the_catalog_is_consistent() -> None:
    for name, spec in SHIPPED.items():
        assert spec.name == name
        assert bool(spec.mirrors) == bool(spec.files or spec.archive)  # else it comes with scikit-learn
        assert len(spec.mean) == len(spec.std) == spec.in_channels
        assert len(set(spec.class_names)) == len(spec.class_names) == 10
        md5s = [text for file in spec.files for text in (file.md5, file.content_md5) if text]
        assert all(len(text) == 32 and set(text) <= set("0123456789abcdef") for text in md5s)
        assert len(set(md5s)) == len(md5s)


def test_kuzushiji_classes_are_called_as_their_characters_are_read() -> None:
    """The data set's own list of classes is these ten hiragana, in this order."""
    read = [
        unicodedata.name(character).removeprefix("HIRAGANA LETTER ").lower() for character in "おきすつなはまやれを"
    ]
    assert [{"tu": "tsu"}.get(syllable, syllable) for syllable in read] == list(CATALOG["kmnist"].class_names)


def test_the_checksums_are_those_of_torchvision() -> None:
    from torchvision import datasets

    for name, theirs in (
        ("mnist", datasets.MNIST),
        ("fashion_mnist", datasets.FashionMNIST),
        ("kmnist", datasets.KMNIST),
    ):
        assert [(file.name, file.md5) for file in CATALOG[name].files] == theirs.resources
        assert CATALOG[name].folder == f"{theirs.__name__}/raw"
    cifar = CATALOG["cifar10"]
    assert [[file.name, file.md5] for file in cifar.files] == datasets.CIFAR10.train_list + datasets.CIFAR10.test_list
    assert cifar.archive == FileSpec(datasets.CIFAR10.filename, datasets.CIFAR10.tgz_md5)
    assert cifar.folder == datasets.CIFAR10.base_folder


class TestFinding:
    def test_the_order_is_data_dir_then_the_variable_then_data(
        self, made_up: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ARCFACE_PL_DATA_DIR", str(tmp_path / "variable"))
        assert find_folder(made_up.spec, "given") is None
        made_up.write(tmp_path / "data")
        assert find_folder(made_up.spec, "given") == Path("data/MNIST/raw")
        made_up.write(tmp_path / "variable")
        assert find_folder(made_up.spec, "given") == tmp_path / "variable/MNIST/raw"
        made_up.write(tmp_path / "given")
        assert find_folder(made_up.spec, "given") == Path("given/MNIST/raw")

    def test_a_folder_with_a_file_missing_is_passed_over(self, made_up: MadeUp, tmp_path: Path) -> None:
        (made_up.write(tmp_path / "given") / made_up.spec.files[3].name).unlink()
        assert find_folder(made_up.spec, "given") is None

    def test_unpacked_files_will_do(self, made_up: MadeUp, tmp_path: Path) -> None:
        folder = made_up.write(tmp_path / "given")
        packed = made_up.spec.files[0].name
        (folder / packed).unlink()
        (folder / packed.removesuffix(".gz")).write_bytes(idx(made_up.images[0]))
        assert find_folder(made_up.spec, "given") == Path("given/MNIST/raw")
        train, _ = load_dataset(made_up.spec, folder)
        assert torch.equal(train.images[:, 0], made_up.images[0])


class TestLoading:
    def test_what_was_written_comes_back(self, made_up: MadeUp, tmp_path: Path) -> None:
        parts = load_dataset(made_up.spec, made_up.write(tmp_path))
        for part, images, labels in zip(parts, made_up.images, made_up.labels, strict=True):
            assert torch.equal(part.images, images.unsqueeze(1))
            assert torch.equal(part.labels, labels.long())

    def test_a_file_that_goes_meanwhile_is_named(self, made_up: MadeUp, tmp_path: Path) -> None:
        folder = made_up.write(tmp_path)
        (folder / made_up.spec.files[3].name).unlink()
        with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: cannot be read"):
            load_dataset(made_up.spec, folder)

    def test_a_read_only_folder_is_only_read(self, made_up: MadeUp, tmp_path: Path) -> None:
        folder = made_up.write(tmp_path / "given")
        for path in (folder, folder.parent, folder.parent.parent):
            path.chmod(0o500)
        before = sorted(os.walk(tmp_path))
        try:
            load_dataset(made_up.spec, find_folder(made_up.spec, "given"))
        finally:
            for path in (folder.parent.parent, folder.parent, folder):
                path.chmod(0o700)
        assert sorted(os.walk(tmp_path)) == before


def test_the_way_to_get_it_by_hand_names_folders_files_and_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCFACE_PL_DATA_DIR", "/elsewhere")
    text = how_to_get(CATALOG["mnist"], "given")
    for wanted in ("given/MNIST/raw", "/elsewhere/MNIST/raw", "data/MNIST/raw"):
        assert wanted in text
    for file in CATALOG["mnist"].files:
        assert file.name in text
        assert file.md5 in text


def test_a_folder_that_lacks_something_is_told_from_one_that_has_nothing(made_up: MadeUp, tmp_path: Path) -> None:
    lacking = made_up.spec.files[3].name
    (made_up.write(tmp_path / "given") / lacking).unlink()
    assert f"Searched given/MNIST/raw (lacks {lacking}), data/MNIST/raw. " in how_to_get(made_up.spec, "given")


class TestFetching:
    def test_only_what_is_missing_is_fetched(self, made_up: MadeUp, server: Server, tmp_path: Path) -> None:
        spec = replace(made_up.spec, mirrors=(server.mirror("good"),))
        folder = made_up.write(tmp_path / "given")
        (folder / spec.files[1].name).unlink()
        assert fetch_dataset(spec, "given", LIMITS) == Path("given/MNIST/raw")
        assert [path for path, _ in server.requests] == [f"/good/{spec.files[1].name}"]

    def test_a_second_call_finds_what_the_first_fetched(self, made_up: MadeUp, server: Server, tmp_path: Path) -> None:
        spec = replace(made_up.spec, mirrors=(server.mirror("good"),))
        fetch_dataset(spec, "given", LIMITS)
        fetch_dataset(spec, "given", LIMITS)
        assert len(server.requests) == 4
        load_dataset(spec, find_folder(spec, "given"))

    def test_a_missing_file_ends_it_at_once(self, made_up: MadeUp, server: Server) -> None:
        spec = replace(made_up.spec, mirrors=(server.mirror("404"), server.mirror("503")))
        with pytest.raises(DataError, match=r"404.*503"):
            fetch_dataset(spec, "given", LIMITS)
        assert len(server.requests) == 2

    def test_a_folder_that_cannot_be_made(self, made_up: MadeUp, tmp_path: Path) -> None:
        (tmp_path / "given").write_bytes(b"a file")
        with pytest.raises(DataError, match="given: cannot be written"):
            fetch_dataset(made_up.spec, "given", LIMITS)

    @pytest.mark.parametrize(
        "start",
        [
            pytest.param(threading.Thread, id="threads"),
            pytest.param(multiprocessing.get_context("spawn").Process, id="processes", marks=pytest.mark.slow),
        ],
    )
    @pytest.mark.timeout(120)
    def test_those_that_come_together_download_once(
        self, made_up: MadeUp, server: Server, tmp_path: Path, start: Callable[..., Any]
    ) -> None:
        spec = replace(made_up.spec, mirrors=(server.mirror("slow"),))
        done = [tmp_path / f"done {number}" for number in range(2)]
        workers = [start(target=fetch_and_load, args=(spec, str(tmp_path / "given"), path)) for path in done]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert all(path.exists() for path in done)
        assert sorted(path for path, _ in server.requests) == sorted(f"/slow/{file.name}" for file in spec.files)


def fetch_and_load(spec: DatasetSpec, data_dir: str, done: Path) -> None:
    load_dataset(spec, fetch_dataset(spec, data_dir, LIMITS))
    done.touch()


# CIFAR-10. Its files were pickled by Python 2, so theirs are put together here by the protocol's opcodes.


def python2_pickle(pixels: torch.Tensor, labels: list[int]) -> bytes:
    def string(text: bytes) -> bytes:
        return b"T" + len(text).to_bytes(4, "little") + text

    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R(K\x03" + string(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"".join(b"J" + size.to_bytes(4, "little") for size in pixels.shape) + b"\x86"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89" + string(pixels.numpy().tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes((label,)) for label in labels) + b"e"
    return b"\x80\x02}(" + string(b"data") + array + string(b"labels") + numbers + b"u."


def small_cifar(contents: list[bytes], **changes: object) -> DatasetSpec:
    files = tuple(
        replace(file, md5=md5(content)) for file, content in zip(CATALOG["cifar10"].files, contents, strict=True)
    )
    return replace(CATALOG["cifar10"], files=files, num_train=50, num_test=10, **changes)


@pytest.fixture
def batches() -> tuple[list[bytes], torch.Tensor]:
    pixels = torch.randint(0, 256, (6, 10, 3072), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return [python2_pickle(batch, [*range(1, 10), number]) for number, batch in enumerate(pixels)], pixels


def write_batches(folder: Path, contents: list[bytes]) -> Path:
    folder.mkdir(parents=True)
    for file, content in zip(CATALOG["cifar10"].files, contents, strict=True):
        (folder / file.name).write_bytes(content)
    return folder


class TestCIFAR10:
    def test_what_was_written_comes_back(self, batches: tuple[list[bytes], torch.Tensor], tmp_path: Path) -> None:
        contents, pixels = batches
        train, test = load_dataset(small_cifar(contents), write_batches(tmp_path / "c", contents))
        assert torch.equal(train.images, pixels[:5].reshape(50, 3, 32, 32))
        assert torch.equal(test.images, pixels[5].reshape(10, 3, 32, 32))
        assert train.labels.tolist() == [label for number in range(5) for label in (*range(1, 10), number)]
        assert test.labels.tolist() == [*range(1, 10), 5]

    def test_the_standard_reader_agrees_on_the_pickle(self, batches: tuple[list[bytes], torch.Tensor]) -> None:
        contents, pixels = batches
        loaded = pickle.loads(
            contents[0].replace(b"numpy.core.multiarray", b"numpy._core.multiarray"), encoding="latin1"
        )
        assert torch.equal(torch.from_numpy(loaded["data"].copy()), pixels[0])

    def test_a_changed_byte(self, batches: tuple[list[bytes], torch.Tensor], tmp_path: Path) -> None:
        contents, _ = batches
        folder = write_batches(tmp_path / "c", contents)
        (folder / "data_batch_3").write_bytes(contents[2][:-1] + b"x")
        with pytest.raises(DataError, match=r"data_batch_3: expected the md5 [0-9a-f]{32}, found"):
            load_dataset(small_cifar(contents), folder)

    def test_the_archive_is_fetched_and_unpacked(
        self, batches: tuple[list[bytes], torch.Tensor], server: Server, tmp_path: Path
    ) -> None:
        contents, _ = batches
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, content in (
                *zip((file.name for file in CATALOG["cifar10"].files), contents, strict=True),
                ("../x", b""),
            ):
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        archive = FileSpec("cifar-10-python.tar.gz", md5(packed.getvalue()))
        server.files[archive.name] = packed.getvalue()
        spec = small_cifar(contents, archive=archive, mirrors=(server.mirror("cut"), server.mirror("good")))
        folder = fetch_dataset(spec, "given", LIMITS)
        assert sorted(path.name for path in folder.iterdir()) == sorted(file.name for file in spec.files)
        assert not (tmp_path / "given" / archive.name).exists()
        load_dataset(spec, folder)

    def test_an_archive_without_the_files(
        self, batches: tuple[list[bytes], torch.Tensor], server: Server, use: Callable[[DatasetSpec], None]
    ) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz"):
            pass
        archive = FileSpec("cifar-10-python.tar.gz", md5(packed.getvalue()))
        server.files[archive.name] = packed.getvalue()
        with pytest.raises(DataError, match="cannot be unpacked"):
            fetch_dataset(small_cifar(batches[0], archive=archive, mirrors=(server.mirror("good"),)), "given", LIMITS)
