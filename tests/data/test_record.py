"""RecordIO files: every byte, every class, the batches of the same files in folders, and what is refused."""

import io
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from record_files import MAGIC, packed, piece, record, write_records, write_set

from arcface_pl.data import ImageFolderDataModule, RecordDataModule
from arcface_pl.data.folders.record_file import RecordFile
from arcface_pl.data.folders.workers import Workers
from arcface_pl.errors import DataError

SMALL: dict[str, Any] = {"image_size": 16, "batch_size": 8, "num_workers": 0, "seed": 3}


def picture(number: int, kind: str = "PPM") -> bytes:
    """An image of 16 x 16; a PPM has RecordIO's magic among its pixels, in every alignment."""
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for shift in range(4):
        pixels.reshape(-1)[40 + 21 * shift : 44 + 21 * shift] = np.frombuffer(MAGIC, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def images(classes: int = 3, each: int = 20) -> list[tuple[bytes, int]]:
    return [(picture(label * each + number), label) for label in range(classes) for number in range(each)]


def made(folder: Path, **kwargs: Any) -> RecordDataModule:
    data = RecordDataModule(str(folder), **{**SMALL, **kwargs})
    data.setup("fit")
    return data


class TestFile:
    def test_every_payload_comes_back(self, tmp_path: Path) -> None:
        """Of every length to 70, with the magic at random places: alone, in a row, at the begin and at the end."""
        draw = random.Random(0)
        words = [MAGIC, MAGIC, b"abcd", b"\0\0\0\0", MAGIC[1:], b"x"]
        bodies = [b"".join(draw.choices(words, k=n % 15)) for n in range(300)]
        bodies += [draw.randbytes(n) for n in range(70)] + [MAGIC, MAGIC * 3, b"", b"1234" + MAGIC]
        keys = draw.sample(range(10**6), len(bodies))
        labels = [float(n) if n % 3 else [float(n), 0.5, -1.0] for n in range(len(bodies))]
        payloads = {key: packed(body, key, label) for key, body, label in zip(keys, bodies, labels, strict=True)}
        file = RecordFile(write_records(tmp_path / "a.rec", payloads))
        assert file.keys.tolist() == sorted(keys)
        for key, body, label in zip(keys, bodies, labels, strict=True):
            found = file.read(file.place_of(key))
            assert found.content == body
            assert found.labels == (tuple(label) if isinstance(label, list) else (label,))
        assert file.place_of(10**6) is None
        assert file.classes_of(np.arange(len(keys))).tolist() == [keys.index(key) for key in sorted(keys)]
        assert sum(MAGIC in body for body in bodies) > 100

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_workers_read_it(self, tmp_path: Path, method: str) -> None:
        bodies = [picture(n) for n in range(12)]
        file = RecordFile(write_records(tmp_path / "a.rec", {n: packed(b, n, 0.0) for n, b in enumerate(bodies)}))
        file.read(0)  # mapped in this process already
        if method == "spawn":  # what it is sent
            assert len(pickle.dumps(file)) < 2000
            file = pickle.loads(pickle.dumps(file))
            assert [file.read(n).content for n in range(12)] == bodies
        else:
            places = [11 - n for n in range(12)]
            assert [each.content for each in Workers(file.read, 2).map(places)] == bodies[::-1]


class TestDataModule:
    @pytest.mark.parametrize("lists", [False, True])
    def test_it_gives_the_batches_of_the_same_files_in_folders(self, tmp_path: Path, lists: bool) -> None:
        content = images()
        write_set(tmp_path / "rec", content, lists=lists)
        for number, (each, label) in enumerate(content):
            path = tmp_path / "tree" / str(label) / f"{number:03d}.ppm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(each)
        folders = ImageFolderDataModule(str(tmp_path / "tree"), **SMALL)
        folders.setup("fit")
        batches = list(folders.train_dataloader())
        for settings in ({"resident": True}, {"resident": False}, {"resident": False, "num_workers": 2}):
            data = made(tmp_path / "rec", **settings)
            assert data.class_names == ["0", "1", "2"]
            assert data.dataset_name == "rec"
            for one, other in zip(data.train_dataloader(), batches, strict=True):
                assert torch.equal(one[0], other[0])
                assert torch.equal(one[1], other[1])
            for split in ("val", "test"):
                one, other = (next(iter(getattr(each, f"{split}_dataloader")())) for each in (data, folders))
                assert torch.equal(one[0], other[0])

    def test_other_content_is_another_data_set(self, tmp_path: Path) -> None:
        content = images(2, 12)
        one = made(write_set(tmp_path / "a", content), resident=False).state_dict()["data"].split()[1]
        same = made(write_set(tmp_path / "b", content), resident=False).state_dict()["data"].split()[1]
        moved = [*content[1:12], *content[:1], *content[12:]]
        moved[0] = (picture(99, "PNG"), 0)
        other = made(write_set(tmp_path / "c", moved), resident=False).state_dict()["data"].split()[1]
        assert one == same != other

    def test_without_identities_or_property_all_records_are_images(self, tmp_path: Path) -> None:
        content = images(2, 12)
        payloads = {3 * n + 5: packed(each, n, float(10 * label)) for n, (each, label) in enumerate(content)}
        data = made(write_records(tmp_path / "faces.rec", payloads))
        assert data.dataset_name == "faces"
        assert data.class_names == ["0", "10"]
        assert data.num_train + data.num_val + data.num_test == 24

    def test_classes_without_images_are_named(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        folder = write_set(tmp_path / "a", images(2, 12))
        (folder / "property").write_text("5,112,112")
        assert made(folder).num_classes == 2
        assert "3 of its 5 classes have no image" in caplog.text

    def test_an_unreadable_image_is_named_or_left_out(self, tmp_path: Path) -> None:
        content = images(2, 12)
        content[5] = (b"no image", 0)
        folder = write_set(tmp_path / "a", content)
        with pytest.raises(DataError, match=r"1 of 24 images cannot be read: .*train\.rec/0000000006: .*not an image"):
            made(folder)
        data = made(folder, skip_unreadable=True)
        assert data.num_train + data.num_val + data.num_test == 23


class TestRefused:
    """Truncated and lying files, each in one line."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return write_set(tmp_path / "a", images(2, 12))

    def refusal(self, folder: Path, **kwargs: Any) -> str:
        with pytest.raises(DataError) as caught:
            made(folder, **kwargs)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_every_truncation(self, folder: Path) -> None:
        whole = (folder / "train.rec").read_bytes()
        for size in [0, 3, 7, 8, *range(40, len(whole), 997), len(whole) - 1]:
            (folder / "train.rec").write_bytes(whole[:size])
            message = self.refusal(folder) if size < len(whole) - 1 - 12 * 2 else ""
            assert not message or "train.rec" in message

    def test_a_truncation_while_training(self, folder: Path) -> None:
        """A file that was replaced by a shorter one after its index was read."""
        data = RecordFile(folder / "train.rec")
        (folder / "b.rec").write_bytes((folder / "train.rec").read_bytes()[:4000])
        data.path = folder / "b.rec"
        data = pickle.loads(pickle.dumps(data))
        with pytest.raises(DataError, match=r"b\.rec, record 20: got its end at byte \d+; expected 0a23d7ce"):
            data.read(20)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "0 numbers in 0 lines"),
            ("0\t0\n1", "3 numbers in 2 lines"),
            ("0\t0\n1\tx\n", "expected a line with a key and an offset per record"),
            ("0\t0\n1\t1e3\n", "expected a line with a key and an offset per record"),
            ("0\t0\n-1\t60\n", "keys -1 to 0"),
            ("0\t0\n0\t60\n", "key 0 twice"),
            ("0\t0\n1\t0\n", "offset 0 twice"),
            ("0\t0\n1\t2\n", "record 1: got byte 2; expected a multiple of 4"),
            ("0\t0\n1\t4\n", "record 0: first identity: got '25'; expected the key after the last image, at most 2"),
            ("0\t0\n1\t99999999999999999999\n", "record 1|expected a line"),
            ("0\t0\n99\t44\n", "got '0 of the keys 1 to 24'; expected all of them"),
            ("é\t0\n", "expected a line with a key and an offset per record"),
        ],
    )
    def test_index(self, folder: Path, content: str, message: str) -> None:
        (folder / "train.idx").write_text(content, encoding="utf-8")
        found = self.refusal(folder)
        assert any(each in found for each in message.split("|")), found

    @pytest.mark.parametrize(
        ("payload", "message"),
        [
            (b"short", "record 2: got 5 bytes; expected a header of 24 bytes"),
            (packed(b"", 2, [1.0, 2.0])[:27], "expected a header of 24 bytes and the labels it announces"),
            (b"\xff" * 30, "expected a header of 24 bytes and the labels it announces"),
            (packed(b"x", 2, float("nan")), "record 2: got label nan; expected a whole number of at least 0"),
            (packed(b"x", 2, -1.0), "got label -1"),
            (packed(b"x", 2, [0.5]), "got label 0.5"),
            (packed(b"x", 2, 1e30), "got label 1e+30"),
            (packed(b"x", 2, 7.0), "record 2: label: got 7; expected 0 to 1, the classes in property"),
        ],
    )
    def test_headers(self, folder: Path, payload: bytes, message: str) -> None:
        payloads = {n: packed(picture(n), n, float(n % 2)) for n in range(1, 9)}
        write_records(folder / "train.rec", {**payloads, 2: payload})
        assert message in self.refusal(folder)

    @pytest.mark.parametrize(
        ("raw", "message"),
        [
            (b"\0" * 64, "got 00000000 at byte"),
            (piece(b"a" * 40, 2), "got flag 2 at byte"),
            (piece(b"a" * 40, 1) + piece(b"b", 0), "got flag 0 at byte"),
            (piece(b"a" * 40, 7), "got flag 7 at byte"),
            (piece(b"a" * 40, 1), "got its end at byte"),
            (piece(b"a" * 40, 0)[:-8], "got 32 bytes up to the end of the file; expected 40"),
        ],
    )
    def test_framing(self, folder: Path, raw: bytes, message: str) -> None:
        content = record(packed(picture(0), 1, 0.0))
        (folder / "train.rec").write_bytes(content + raw)
        (folder / "train.idx").write_text(f"1\t0\n2\t{len(content)}\n")
        assert message in self.refusal(folder)

    def test_files(self, folder: Path) -> None:
        (folder / "property").write_text("ten")
        assert "got 'ten'; expected number of classes, height and width" in self.refusal(folder)
        (folder / "train.idx").unlink()
        assert "expected the index of the .rec file next to it, train.idx" in self.refusal(folder)
        (folder / "train.rec").unlink()
        for each in (folder, folder / "nowhere", folder / "property"):
            assert "expected a folder with train.rec and train.idx, or a .rec file" in self.refusal(each)
