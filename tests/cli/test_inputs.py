"""Which files the words of a command line stand for, and which model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_runs import save_model

from arcface_pl import ArcFaceHead, ArcFaceModule, SimpleCNN
from arcface_pl.checkpoints.atomic import write_checkpoint
from arcface_pl.cli.inputs import find_pictures, name_pictures, open_model
from arcface_pl.errors import CheckpointError, SettingsError, printable


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.png",
        "a.JPG",
        "in/c.tif",
        "in/deep/d.gif",
        ".hidden.png",
        "in/.cache/e.png",
        "notes.txt",
        "[x].png",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"whatever")
    (tmp_path / "folder.png").mkdir()
    os.symlink(tmp_path, tmp_path / "in" / "round")
    os.symlink("self.png", tmp_path / "self.png")
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["."], ["[x].png", "a.JPG", "b.png", "in/c.tif", "in/deep/d.gif"]),
        (["in", "b.png"], ["in/c.tif", "in/deep/d.gif", "b.png"]),
        (["*.png"], ["[x].png", "b.png"]),
        (["**/*.[tg]i*"], ["in/c.tif", "in/deep/d.gif"]),
        (["./in/*"], ["in/c.tif"]),
        ([".hid*"], [".hidden.png"]),
        (["[x].png"], ["[x].png"]),
        (["gone.png", "b.png", "b.png"], ["gone.png", "b.png", "b.png"]),
    ],
)
def test_folders_patterns_and_names(words: list[str], expected: list[str], folder: Path) -> None:
    assert [str(path) for path in find_pictures(words)] == expected
    if words != ["gone.png", "b.png", "b.png"]:
        assert find_pictures([str(folder / word) for word in words]) == [folder / each for each in expected]


@pytest.mark.parametrize(
    ("word", "message"),
    [("folder.png", "no file in this folder"), ("*.bmp", "no file matches"), ("**.png/**x", "valid pattern|no file")],
)
def test_what_stands_for_nothing_is_named(word: str, message: str, folder: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        find_pictures([word])


def test_a_folder_of_folders_is_a_name_each(folder: Path) -> None:
    assert dict(name_pictures(["in"])) == {"in": [Path("in/c.tif")]}
    (folder / "people" / "ada").mkdir(parents=True)
    (folder / "b.png").rename(folder / "people" / "ada" / "b.png")
    assert dict(name_pictures(["people"])) == {"ada": [Path("people/ada/b.png")]}


def test_names_are_shown_on_one_line_and_without_commands_to_the_terminal() -> None:
    name = os.fsdecode(b"a\nb\x1b[31m\xff \xc3\xa9")
    assert printable(name) == "a\\nb\\x1b[31m\\udcff é"


def test_a_damaged_checkpoint_is_named_with_the_whole_one_that_last_good_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("lightning_logs/version_0/checkpoints")
    modules = {name: ArcFaceModule(SimpleCNN(16), ArcFaceHead(16, 4)) for name in ("best", "last")}
    for age, (name, module) in zip((1, 2), modules.items(), strict=True):
        content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
        write_checkpoint(content, folder / f"{name}.ckpt")
        os.utime(folder / f"{name}.ckpt", (age, age))
    for name, module in modules.items():
        assert torch.equal(open_model(name).head.weight, module.head.weight)
    assert torch.equal(open_model("last-good").head.weight, modules["last"].head.weight)
    damaged = bytearray((folder / "last.ckpt").read_bytes())
    damaged[len(damaged) // 3] ^= 4
    (folder / "last.ckpt").write_bytes(damaged)
    assert torch.equal(open_model("last-good").head.weight, modules["best"].head.weight)
    with pytest.raises(CheckpointError, match=r"best\.ckpt is whole: last-good takes it"):
        open_model("last")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    module = ArcFaceModule(SimpleCNN(16), ArcFaceHead(16, 4))
    checkpoint = tmp_path / "model.ckpt"
    save_model(module, checkpoint)
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    words = [
        sys.executable,
        "-c",
        "from arcface_pl.cli import main; main()",
        "predict",
        str(checkpoint),
        *[str(tmp_path / "a.png")] * 900,
        "--json",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        told = process.stderr.read()
    assert process.returncode == 141
    assert "Traceback" not in told
