"""Checkpoints with real damage: every single bit, every length, and what is no checkpoint at all."""

import hashlib
import os
import random
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from genuine import make_loader, make_module, make_trainer, same, write

from arcface_pl import ArcFaceModule
from arcface_pl.checkpoints.reading import FORMAT_VERSION, read_checkpoint
from arcface_pl.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step`",
    "ignore:The number of training batches",
    "ignore:.*does not have many workers",
)


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("genuine")).read_bytes()


def check_refused(path: Path, fault: str | None = None) -> None:
    """The one exception type, on one line, with file, fault and remedy."""
    with pytest.raises(CheckpointError, match=fault) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "; " in message
    assert "\n" not in message


def check_refused_or_same(path: Path, wanted: dict[str, Any]) -> bool:
    """Damage is refused, or hits what nothing reads: then the content is as it was. Returns whether it was refused."""
    try:
        content = read_checkpoint(path)
    except CheckpointError:
        check_refused(path)
        return True
    assert same(content, wanted)
    return False


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_the_genuine_one_is_read(genuine: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(genuine)
    content = read_checkpoint(path)
    assert content["format_version"] == FORMAT_VERSION
    assert same(torch.load(path, weights_only=True), content)


def check_flips(genuine: bytes, path: Path, bits: Iterable[int]) -> tuple[int, int]:
    """Returns how many flips were refused, and how many harmless."""
    path.write_bytes(genuine)
    wanted, refused, harmless = read_checkpoint(path), 0, 0
    with path.open("r+b", buffering=0) as file:  # in place, since making a new file is what takes the time
        for bit in bits:
            os.pwrite(file.fileno(), bytes((genuine[bit // 8] ^ 1 << bit % 8,)), bit // 8)
            was_refused = check_refused_or_same(path, wanted)
            refused, harmless = refused + was_refused, harmless + (not was_refused)
            os.pwrite(file.fileno(), genuine[bit // 8 : bit // 8 + 1], bit // 8)
    assert path.read_bytes() == genuine
    print(f"{refused + harmless} flips: {refused} refused, {harmless} harmless")
    return refused, harmless


def test_a_flipped_bit_in_every_third_byte(genuine: bytes, tmp_path: Path, rng: random.Random) -> None:
    bits = (8 * byte + rng.randrange(8) for byte in range(rng.randrange(3), len(genuine), 3))
    refused, harmless = check_flips(genuine, tmp_path / "model.ckpt", bits)
    assert refused > harmless


def test_every_flip_in_the_directory(genuine: bytes, tmp_path: Path) -> None:
    """No checksum covers the archive's directory: every eighth byte of it, in full."""
    places = range(genuine.index(b"PK\1\2"), len(genuine), 8)
    check_flips(genuine, tmp_path / "model.ckpt", (8 * place + bit for place in places for bit in range(8)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_single_bit(genuine: bytes, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with capsys.disabled():
        check_flips(genuine, tmp_path / "model.ckpt", range(8 * len(genuine)))


def test_a_checkpoint_of_an_older_release_with_a_digest_after_it_is_read(genuine: bytes, tmp_path: Path) -> None:
    """Its SHA-256 is the comment of the archive, which nothing reads."""
    path = tmp_path / "model.ckpt"
    digest = b"sha256:" + hashlib.sha256(genuine).hexdigest().encode()
    path.write_bytes(genuine)
    wanted = read_checkpoint(path)
    path.write_bytes(genuine[:-2] + len(digest).to_bytes(2, "little") + digest)
    assert same(read_checkpoint(path), wanted)
    path.write_bytes(genuine[:-2] + len(digest).to_bytes(2, "little") + digest + b"more")
    check_refused(path)


def test_every_length_it_may_be_cut_to(genuine: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(genuine)
    for length in reversed(range(len(genuine))):
        os.truncate(path, length)
        check_refused(path)


def test_random_damage(genuine: bytes, tmp_path: Path, rng: random.Random) -> None:
    """Blocks overwritten, cut out, doubled, moved; zeros as a crash leaves them; something after the end."""
    path = tmp_path / "model.ckpt"
    path.write_bytes(genuine)
    wanted = read_checkpoint(path)
    for _ in range(200):
        first, last = sorted(rng.sample(range(len(genuine) + 1), 2))
        block = genuine[first:last]
        changed = rng.choice(
            (
                genuine[:first] + rng.randbytes(last - first) + genuine[last:],
                genuine[:first] + bytes(last - first) + genuine[last:],
                genuine[:first] + genuine[last:],
                genuine[:last] + block + genuine[last:],
                genuine[:first] + block[::-1] + genuine[last:],
                genuine + rng.randbytes(1 + rng.randrange(100)),
                rng.randbytes(1 + rng.randrange(100)) + genuine,
            )
        )
        path.write_bytes(changed)
        check_refused_or_same(path, wanted)


NO_CHECKPOINT = {
    "empty": (b"", "it is empty"),
    "text": (b"these are my weights\n", "not a checkpoint"),
    "html": (b"<html><body>404 Not Found</body></html>", "not a checkpoint"),
    "zeros": (bytes(5000), "not a checkpoint"),
    "an empty archive": (b"PK\5\6" + bytes(18), "more than tensors and plain values, or is damaged"),
}


@pytest.mark.parametrize(("content", "fault"), NO_CHECKPOINT.values(), ids=NO_CHECKPOINT)
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    check_refused(path, fault)


def test_what_is_no_file(tmp_path: Path) -> None:
    check_refused(tmp_path / "nothing.ckpt", "there is no such file")
    check_refused(tmp_path, "it is a folder")
    (tmp_path / "loop").symlink_to("loop")
    check_refused(tmp_path / "loop", "there is no such file")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    check_refused(tmp_path / "pipe", "there is no such file")


def test_a_file_that_cannot_be_read(genuine: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root no permission is missing: the refusal is put in the place where the system makes it."""
    path = tmp_path / "model.ckpt"
    path.write_bytes(genuine)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    check_refused(path, r"it cannot be read \(Permission denied\)")


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(200_000_000))
    assert path.stat().st_size < 300_000
    check_refused(path, "unpack to more than the file holds")


def test_the_trainer_reads_it_the_same_way(genuine: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(genuine)
    weights = read_checkpoint(path)["state_dict"]["head.weight"].numpy().tobytes()
    for bit in (8 * genuine.index(weights), 8 * genuine.index(b"epoch")):
        path.write_bytes(flipped(genuine, bit))
        with pytest.raises(CheckpointError):
            ArcFaceModule.load_from_checkpoint(path)
        for run in ("fit", "validate", "test", "predict"):
            with pytest.raises(CheckpointError):
                getattr(make_trainer(tmp_path), run)(make_module(), make_loader(), ckpt_path=path, weights_only=True)


def test_a_good_one_goes_on(genuine: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(genuine)
    shutil.copy(path, tmp_path / "copy.ckpt")
    make_trainer(tmp_path).fit(make_module(), make_loader(), ckpt_path=path, weights_only=True)
    assert path.read_bytes() == genuine
