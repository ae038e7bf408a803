"""Files written whole or not at all."""

import os
from pathlib import Path

import pytest
import torch

from arcface_pl.checkpoints.atomic import link_or_copy, replacing, sweep, write_checkpoint


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"ne")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_a_checkpoint_is_what_torch_saves_to_the_byte(tmp_path: Path) -> None:
    content = {"state_dict": {"weight": torch.arange(6.0)}, "epoch": 3}
    write_checkpoint(content, tmp_path / "model.ckpt")
    with (tmp_path / "plain.ckpt").open("wb") as file:
        torch.save(content, file)
    assert (tmp_path / "model.ckpt").read_bytes() == (tmp_path / "plain.ckpt").read_bytes()


def test_the_last_one_is_kept_when_it_is_replaced(tmp_path: Path) -> None:
    for number in range(3):
        write_checkpoint({"number": number}, tmp_path / "in" / "last.ckpt")
    found = {path.name: torch.load(path)["number"] for path in (tmp_path / "in").iterdir()}
    assert found == {"last.ckpt": 2, "previous.ckpt": 1}


@pytest.mark.parametrize("has_links", [True, False])
def test_a_second_name_is_a_link_or_a_copy(tmp_path: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_links:

        def refuse(*_: object) -> None:
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    best, last = tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    write_checkpoint({"number": 0}, last)
    for number in (1, 2):
        write_checkpoint({"number": number}, best)
        for _ in range(2):  # a second time it is the same file already
            link_or_copy(best, last)
        assert last.samefile(best) == has_links
        assert torch.load(last)["number"] == number
    assert names(tmp_path) == {"best.ckpt", "last.ckpt"} | ({"previous.ckpt"} if has_links else set())
    write_checkpoint({"number": 3}, best)  # replaced, not written into: the other name keeps what it had
    assert torch.load(last)["number"] == 2


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.partial").write_bytes(b"half")
    (tmp_path / "last.ckpt").write_bytes(b"whole")
    sweep(tmp_path)
    assert names(tmp_path) == {"last.ckpt"}
