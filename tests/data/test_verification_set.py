"""`.bin` verification sets: written by Python 2 and 3 in every protocol, and malicious ones, which run nothing."""

import contextlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arcface_pl.data import PairsDataModule
from arcface_pl.data.folders.verification_set import read_verification_set
from arcface_pl.errors import DataError

IMAGES = [b"\xff\xd8 one\0\x80", b"two", b"\x89PNG", b"four" * 100, bytes(range(256)), b""]
SAME = [True, False, True]


def written(folder: Path, content: bytes) -> Path:
    path = folder / "lfw.bin"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "images",
    [
        IMAGES,
        tuple(IMAGES),
        [bytearray(each) for each in IMAGES],
        [np.frombuffer(each, np.uint8) for each in IMAGES],
        [np.frombuffer(each, np.uint8)[:, None] for each in IMAGES],
        np.array(IMAGES, dtype=object),
    ],
    ids=["bytes", "tuple", "bytearray", "arrays", "columns", "objects"],
)
def test_what_python_writes_is_read(tmp_path: Path, images: Any) -> None:
    kinds: list[Any] = [SAME, tuple(SAME), [1, 0, 1], [np.bool_(each) for each in SAME], np.array(SAME)]
    for same in [*kinds, np.array([1, 0, 1], ">i4"), [np.int64(each) for each in SAME]]:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            found = read_verification_set(written(tmp_path, pickle.dumps((images, same), protocol)))
            assert found.images == IMAGES
            assert found.is_genuine.tolist() == SAME


def test_the_text_of_python_2_is_bytes(tmp_path: Path) -> None:
    """Opcodes of Python 2's str, which Python 3 does not write."""
    short = b"".join(b"U" + bytes([len(each)]) + each for each in IMAGES[:3])
    long = b"".join(b"T" + struct.pack("<i", len(each)) + each for each in IMAGES[3:])
    content = b"\x80\x02](" + short + long + b"e](\x88\x89I01\ne\x86."
    found = read_verification_set(written(tmp_path, content))
    assert found.images == IMAGES
    assert found.is_genuine.tolist() == SAME


class Call:
    """Pickled as a call."""

    def __init__(self, function: Any, *values: Any, state: Any = None) -> None:
        self.how = (function, values) if state is None else (function, values, state)

    def __reduce__(self) -> Any:
        return self.how


def raw(module: str, name: str, value: str) -> bytes:
    """A call of a name by a text, as the oldest protocol has it."""
    return f"c{module}\n{name}\n(V{value}\ntR.".encode()


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["image", "pair", "alone", "beside"])
def test_a_malicious_one_runs_nothing(tmp_path: Path, place: str, protocol: int) -> None:
    mark = tmp_path / "mark"
    evil = Call(open, str(mark), "w")
    content = {
        "image": ([evil, *IMAGES[1:]], SAME),
        "pair": (IMAGES, [evil, True, False]),
        "alone": evil,
        "beside": (IMAGES, SAME, evil),
    }[place]
    with pytest.raises(DataError, match=r"got 'the name \w+\.open, which is not called'; expected a pickle of a list"):
        read_verification_set(written(tmp_path, pickle.dumps(content, protocol)))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "eval"),
        ("builtins", "getattr"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromstring"),
        ("numpy.testing._private.utils", "runstring"),
        ("_codecs", "decode"),
        ("_pickle", "loads"),
        ("torch", "load"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "dtype.__class__"),
        ("arcface_pl.data.folders.verification_set", "_StandIn"),
    ],
)
def test_no_other_name_is_looked_up(tmp_path: Path, module: str, name: str) -> None:
    with pytest.raises(DataError, match="which is not called"):
        read_verification_set(written(tmp_path, raw(module, name, "print('run')")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Ran out of input"),
        (b"no pickle", "expected a pickle of a list"),
        (pickle.dumps((IMAGES, SAME))[:-40], "expected a pickle of a list"),
        (pickle.dumps(IMAGES), "got 'list'; expected a pickle"),
        (pickle.dumps({"a": 1}), "got 'dict'; expected a pickle"),
        (pickle.dumps((IMAGES, SAME[:2])), "got '6 and 2'; expected .*, two images a pair"),
        (pickle.dumps(([], [])), "got '0 and 0'"),
        (pickle.dumps((IMAGES, 3)), "got '6 and no list'"),
        (pickle.dumps(([*IMAGES[:5], 1.5], SAME)), "image 5: got 'float'; expected the bytes of an image file"),
        (pickle.dumps(([*IMAGES[:5], "text"], SAME)), "image 5: got 'str'"),
        (pickle.dumps(([*IMAGES[:5], np.zeros(4)], SAME)), "image 5: got '_Array'"),
        (pickle.dumps((IMAGES, [True, False, 2])), "pair 2: got 'int'; expected True or False"),
        (pickle.dumps((IMAGES, [True, False, None])), "pair 2: got 'NoneType'"),
        (pickle.dumps((IMAGES, np.array(["a", "b", "c"]))), "got 'an array of U1'"),
        (b"Pid\n.", "got 'a reference to another file'"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.", "expected a pickle of a list"),
        (b"c__builtin__\nbytes\n(I100000000000\ntR.", "got 'bytes of int'"),
        (b"cnumpy\nndarray\n(I100000000000\ntR.", "expected a pickle of a list"),
        (b"c_codecs\nencode\n}b.", "got 'a state where there is none'"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_verification_set(written(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_damage_never_ends_in_another_error(tmp_path: Path) -> None:
    whole = pickle.dumps(([np.frombuffer(each, np.uint8) for each in IMAGES], np.array(SAME)), 2)
    for place in range(len(whole)):
        for change in (0xFF, 0x01):
            content = whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :]
            with contextlib.suppress(DataError):
                read_verification_set(written(tmp_path, content))


def test_missing_files_and_images_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No such file"):
        PairsDataModule(pairs_file=str(tmp_path / "no.bin")).setup("test")
    data = PairsDataModule(pairs_file=str(written(tmp_path, pickle.dumps((IMAGES, SAME)))))
    data.setup("test")
    assert (data.class_names, data.num_test, data.dataset_name) == ([], 6, "lfw")
    assert torch.equal(data.pairs.first, torch.tensor([0, 2, 4]))
    with pytest.raises(ValueError, match="pairs_file: got ''; expected a list of pairs"):
        PairsDataModule("faces")
