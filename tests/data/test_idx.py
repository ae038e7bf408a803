import gzip
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up import MadeUp, idx, md5

from arcface_pl.data import DataError
from arcface_pl.data.sources.catalog import FileSpec
from arcface_pl.data.sources.idx import read_images, read_labels

IMAGES = torch.arange(3 * 28 * 28, dtype=torch.int64).remainder(256).to(torch.uint8).view(3, 28, 28)
LABELS = torch.tensor([7, 0, 9], dtype=torch.uint8)


def write(folder: Path, name: str, content: bytes) -> tuple[Path, FileSpec]:
    """Write a file with the checksums of what it was meant to hold."""
    packed = gzip.compress(content, mtime=0)
    path = folder / name
    path.write_bytes(packed if name.endswith(".gz") else content)
    return path, FileSpec("x.gz", md5(packed), md5(content))


@pytest.mark.parametrize("name", ["images.gz", "images"])
def test_images_come_back_as_they_were_written(tmp_path: Path, name: str) -> None:
    path, spec = write(tmp_path, name, idx(IMAGES))
    read = read_images(path, spec, count=3, size=28)
    assert read.shape == (3, 1, 28, 28)
    assert read.dtype == torch.uint8
    assert torch.equal(read[:, 0], IMAGES)


@pytest.mark.parametrize("name", ["labels.gz", "labels"])
def test_labels_come_back_as_int64(tmp_path: Path, name: str) -> None:
    path, spec = write(tmp_path, name, idx(LABELS))
    read = read_labels(path, spec, count=3, num_classes=10)
    assert read.dtype == torch.int64
    assert read.tolist() == [7, 0, 9]


def test_a_file_packed_anew_is_accepted_by_what_it_holds(tmp_path: Path) -> None:
    path, spec = write(tmp_path, "labels.gz", idx(LABELS))
    path.write_bytes(gzip.compress(idx(LABELS), compresslevel=1, mtime=12345))
    assert read_labels(path, spec, count=3, num_classes=10).tolist() == [7, 0, 9]


def test_where_only_the_packed_checksum_is_known_it_is_checked(tmp_path: Path) -> None:
    path, spec = write(tmp_path, "labels.gz", idx(LABELS))
    spec = replace(spec, content_md5=None)
    assert read_labels(path, spec, count=3, num_classes=10).tolist() == [7, 0, 9]
    changed = idx(torch.tensor([7, 0, 8], dtype=torch.uint8))
    path.write_bytes(gzip.compress(changed, mtime=0))
    with pytest.raises(DataError, match=f"expected the md5 {spec.md5}"):
        read_labels(path, spec, count=3, num_classes=10)


def damage(content: bytes, fault: str) -> bytes:
    return {
        "cut": content[:-1],
        "cut to the header": content[:16],
        "cut in the header": content[:9],
        "empty": b"",
        "longer": content + b"\0",
        "magic": b"\0\0\x0b" + content[3:],
        "byte": content[:500] + bytes((content[500] ^ 1,)) + content[501:],
        "size": content[:8] + b"\0\0\0\x1b" + content[12:],
        "count": content[:4] + b"\0\0\0\x02" + content[8:],
    }[fault]


FAULTS = {
    "cut": "expected 2352 bytes after the header, found 2351",
    "cut to the header": "expected 2352 bytes after the header, found 0",
    "cut in the header": "expected an IDX header of 16 bytes, found a file of 9 bytes",
    "empty": "expected an IDX header of 16 bytes, found a file of 0 bytes",
    "longer": "expected 2352 bytes after the header, found 2353",
    "magic": "expected the magic number 0x00000803, found 0x00000b03",
    "byte": "expected content with the md5 [0-9a-f]{32}, found [0-9a-f]{32}",
    "size": "expected the dimensions 3 x 28 x 28, found 3 x 27 x 28",
    "count": "expected the dimensions 3 x 28 x 28, found 2 x 28 x 28",
}


@pytest.mark.parametrize("name", ["images.gz", "images"])
@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_content_is_named_with_what_was_expected_and_found(tmp_path: Path, name: str, fault: str) -> None:
    path, spec = write(tmp_path, name, idx(IMAGES))
    write(tmp_path, name, damage(idx(IMAGES), fault))
    with pytest.raises(DataError, match=FAULTS[fault]) as caught:
        read_images(path, spec, count=3, size=28)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["cut", "cut in the header", "not gzip", "empty", "crc", "deflate"])
def test_damaged_packing_is_one_clear_error(tmp_path: Path, fault: str) -> None:
    path, spec = write(tmp_path, "images.gz", idx(IMAGES))
    packed = path.read_bytes()
    middle = len(packed) // 2
    path.write_bytes(
        {
            "cut": packed[:-20],
            "cut in the header": packed[:5],
            "not gzip": b"<html>404</html>",
            "empty": b"",
            "crc": packed[:-8] + bytes(4) + packed[-4:],
            "deflate": packed[:middle] + b"\xff" * 20 + packed[middle + 20 :],
        }[fault]
    )
    with pytest.raises(DataError, match=r"images\.gz: expected") as caught:
        read_images(path, spec, count=3, size=28)
    assert "\n" not in str(caught.value)


def test_a_label_out_of_range_is_found_before_the_checksum(tmp_path: Path) -> None:
    path, spec = write(tmp_path, "labels.gz", idx(LABELS))
    write(tmp_path, "labels.gz", idx(torch.tensor([7, 255, 9], dtype=torch.uint8)))
    with pytest.raises(DataError, match="expected labels from 0 to 9, found 255 at position 1"):
        read_labels(path, spec, count=3, num_classes=10)


def test_fewer_labels_than_images(tmp_path: Path) -> None:
    path, spec = write(tmp_path, "labels.gz", idx(LABELS[:2]))
    with pytest.raises(DataError, match="expected the dimensions 3, found 2"):
        read_labels(path, spec, count=3, num_classes=10)


def test_images_in_place_of_labels(tmp_path: Path) -> None:
    path, spec = write(tmp_path, "labels.gz", idx(IMAGES))
    with pytest.raises(DataError, match="expected the magic number 0x00000801, found 0x00000803"):
        read_labels(path, spec, count=3, num_classes=10)


def test_a_file_that_went_or_may_not_be_read(tmp_path: Path) -> None:
    _, spec = write(tmp_path, "labels.gz", idx(LABELS))
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_labels(tmp_path / "gone.gz", spec, count=3, num_classes=10)
    (tmp_path / "folder.gz").mkdir()
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_labels(tmp_path / "folder.gz", spec, count=3, num_classes=10)


def test_every_single_byte_matters(made_up: MadeUp, tmp_path: Path) -> None:
    """Any one flipped bit of a labels file is found, wherever it is."""
    spec, content = made_up.spec.files[3], idx(made_up.labels[1])
    path = tmp_path / "labels"
    for position in range(len(content)):
        for bit in (0, 7):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(DataError):
                read_labels(path, spec, count=30, num_classes=10)
