"""A command's output never takes the place of a file that this package did not write."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import DIGITS_FACTS, save_model

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, Recognizer
from arcface_pl.checkpoints.results import is_ours, writing_result
from arcface_pl.cli import main
from arcface_pl.recognizer import GalleryError, PretrainedError

THEIRS = b"somebody's own work"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of the digits that no run wrote, and a picture."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = ArcFaceModule(FastCNN(16, width=4), ArcFaceHead(16, 10))
    save_model(module, "model.ckpt", **DIGITS_FACTS)
    digit = np.zeros((28, 28), np.uint8)
    digit[4:24, 12:16] = 255
    (tmp_path / "people/ada").mkdir(parents=True)
    Image.fromarray(digit).save("people/ada/1.png")
    return tmp_path


def call(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


EXPORT = ("export", "model.ckpt", "--format", "safetensors")
EVALUATE = ("evaluate", "model.ckpt", "--accelerator", "cpu")
WRITERS: dict[str, tuple[tuple[str, ...], str, str]] = {
    # the command, the flag that names its file, and the file's default name
    "export": (EXPORT, "--output", "model.safetensors"),
    "evaluate": (EVALUATE, "--json", "evaluate-digits.json"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_chosen_file_is_replaced_only_if_it_is_ours(writer: str, place: Path, capsys: pytest.CaptureFixture) -> None:
    words, flag, _ = WRITERS[writer]
    Path("theirs").write_bytes(THEIRS)
    os.mkfifo("pipe")
    Path("link").symlink_to("theirs")
    before = (place / "model.ckpt").read_bytes()
    for name in ("theirs", "model.ckpt", "people", "pipe", "link", "theirs/below"):
        assert call(*words, flag, name) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{flag}: got {name!r}; expected a" in error
    assert Path("theirs").read_bytes() == THEIRS
    assert (place / "model.ckpt").read_bytes() == before
    assert Path("link").is_symlink()
    Path("empty").touch()  # as mktemp makes
    for _ in range(2):
        assert call(*words, flag, "empty") == 0
        assert call(*words, flag, "new/file") == 0
    assert is_ours(Path("empty"))
    assert sorted(each.name for each in Path("new").iterdir()) == ["file"]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_default_name_that_is_taken_gets_a_number(writer: str, place: Path) -> None:
    words, _, name = WRITERS[writer]
    Path(name).write_bytes(THEIRS)
    numbered = [Path(name).with_name(f"{Path(name).stem}-{number}{Path(name).suffix}") for number in (1, 2)]
    assert call(*words) == 0
    assert numbered[0].stat().st_size > 100
    first = numbered[0].read_bytes()
    assert call(*words) == 0
    assert (Path(name).read_bytes(), numbered[0].read_bytes()) == (THEIRS, first)
    assert numbered[1].is_file()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_figures_of_others_stay(place: Path, capsys: pytest.CaptureFixture) -> None:
    theirs = place / "figures/trained/roc.png"
    theirs.parent.mkdir(parents=True)
    Image.new("L", (4, 4)).save(theirs)
    before = theirs.read_bytes()
    assert call(*EVALUATE, "--figures", "figures") == 2
    assert "--figures: got 'figures/trained/roc.png'; expected a new path" in capsys.readouterr().err
    assert not list(place.glob("evaluate*"))
    assert theirs.read_bytes() == before
    theirs.unlink()
    for _ in range(2):
        assert call(*EVALUATE, "--figures", "figures") == 0
    assert is_ours(theirs, b"Software\0arcface_pl")


def write_at_once(path: Path, count: int, write: Callable[[int], bytes]) -> list[Path]:
    def one(number: int) -> Path:
        with writing_result(path) as (file, taken):
            file.write(write(number))
        return taken

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def test_writers_at_the_same_time_take_names_of_their_own(tmp_path: Path) -> None:
    taken = write_at_once(tmp_path / "a.npz", 16, lambda number: str(number).encode())
    assert len(set(taken)) == 16
    assert [path.read_text() for path in taken] == [str(number) for number in range(16)]
    assert set(tmp_path.iterdir()) == set(taken)


def test_a_write_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing_result(tmp_path / "a.npz"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_another_packages_model_and_gallery_stay(place: Path) -> None:
    recognizer = Recognizer.from_checkpoint("model.ckpt")
    other = place / "other"
    other.mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (other / name).write_bytes(THEIRS)
    with pytest.raises(PretrainedError, match="it holds other files"):
        recognizer.save_pretrained(other)
    assert {each.read_bytes() for each in other.iterdir()} == {THEIRS}
    photos = place / "gallery"
    photos.mkdir()
    (photos / "gallery.json").write_bytes(b'{"title": "holidays"}')
    (photos / "embeddings-cats.safetensors").write_bytes(THEIRS)
    before = {each.name: each.read_bytes() for each in photos.iterdir()}
    recognizer.enroll("ada", "people/ada/1.png")
    with pytest.raises(GalleryError, match="it is not an arcface_pl gallery"):
        recognizer.save_gallery(photos)
    assert call("recognize", "enroll", "model.ckpt", "people/ada") == 2
    assert {each.name: each.read_bytes() for each in photos.iterdir()} == before
    (photos / "gallery.json").unlink()
    for name in ("ada", "eve"):
        recognizer.enroll(name, "people/ada/1.png")
        recognizer.save_gallery(photos)
    assert (photos / "embeddings-cats.safetensors").read_bytes() == THEIRS
    assert len(list(photos.glob("embeddings-*"))) == 2


def test_an_edited_model_card_stays(place: Path) -> None:
    recognizer = Recognizer.from_checkpoint("model.ckpt")
    recognizer.save_pretrained("model")
    card = Path("model/README.md")
    recognizer.model.metrics = {"val/accuracy": 0.5}
    recognizer.save_pretrained("model")
    assert "50.00%" in card.read_text()
    card.write_text("my words")
    for accuracy in (0.6, 0.7):
        recognizer.model.metrics = {"val/accuracy": accuracy}
        recognizer.save_pretrained("model")
        assert card.read_text() == "my words"
    assert json.loads(Path("model/config.json").read_text())["metrics"] == {"val/accuracy": 0.7}


def test_a_command_that_fails_leaves_no_folder_or_lock(place: Path) -> None:
    Path("bad.png").write_bytes(b"no picture")
    Path("people/bad").mkdir()
    Path("people/bad/1.png").write_bytes(b"no picture")
    before = {path for path in place.rglob("*") if path.name != "__pycache__"}
    for words in (
        ("recognize", "enroll", "model.ckpt", "people/bad", "--gallery", "new/names"),
        ("recognize", "enroll", "model.ckpt", "nowhere", "--gallery", "new/names"),
        ("recognize", "enroll", "nowhere.ckpt", "people/ada", "--gallery", "new/names"),
        ("recognize", "remove", "model.ckpt", "ada", "--gallery", "new/names"),
        ("recognize", "identify", "model.ckpt", "bad.png", "--gallery", "new/names"),
        ("recognize", "calibrate", "model.ckpt", "people"),
        ("demo", "model.ckpt", "--gallery", "bad.png/names", "--port", "0"),
        ("demo", "nowhere.ckpt", "--gallery", "new/names", "--port", "0"),
        (*EXPORT, "--images", "bad.png", "--output", "new/file"),
        (*EVALUATE, "--data", "ImageFolderDataModule", "--data.root", "nowhere", "--json", "new/file"),
        ("predict", "model.ckpt", "bad.png"),
    ):
        assert call(*words) in (1, 2), words
        assert {path for path in place.rglob("*") if path.name != "__pycache__"} == before, words
