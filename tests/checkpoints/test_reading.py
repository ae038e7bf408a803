"""Reading checkpoints: whole ones come back, and every other file is one `CheckpointError`."""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from arcface_pl.checkpoints.reading import (
    FORMAT_VERSION,
    CheckpointFile,
    check_fit,
    check_resumable,
    is_finite,
    read_checkpoint,
)
from arcface_pl.errors import CheckpointError


def small() -> dict[str, Any]:
    weight = torch.arange(6.0).view(2, 3)
    facts = {"class_names": ["a", "b"], "normalization": [[0.5], [0.25]]}
    return {"state_dict": {"weight": weight}, "hyper_parameters": {}, "data": facts, "format_version": FORMAT_VERSION}


def saved(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "model.ckpt")
    return folder / "model.ckpt"


def test_a_whole_file_comes_back(tmp_path: Path) -> None:
    content = small()
    read = read_checkpoint(str(saved(content, tmp_path)))
    assert torch.equal(read.pop("state_dict")["weight"], content.pop("state_dict")["weight"])
    assert read == content


def test_a_file_that_was_read_before_is_not_read_again() -> None:
    content = small()
    assert read_checkpoint(CheckpointFile(Path("nowhere.ckpt"), content)) is content


def test_missing_and_empty_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="it is a folder"):
        read_checkpoint(tmp_path)
    (tmp_path / "empty.ckpt").touch()
    with pytest.raises(CheckpointError, match="empty.ckpt: it is empty; use an earlier checkpoint"):
        read_checkpoint(tmp_path / "empty.ckpt")
    (tmp_path / "text.ckpt").write_text("no archive")
    with pytest.raises(CheckpointError, match="it is damaged, or not a checkpoint"):
        read_checkpoint(tmp_path / "text.ckpt")


def test_an_archive_must_be_stored_and_fill_its_file(tmp_path: Path) -> None:
    path = saved(small(), tmp_path)
    whole = path.read_bytes()
    for extended in (b"x" + whole, whole + b"x"):
        path.write_bytes(extended)
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(path)
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "packed.ckpt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="unpack to more than the file holds"):
        read_checkpoint(tmp_path / "packed.ckpt")


def test_nothing_but_tensors_and_plain_values_is_read(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> tuple[Callable, tuple]:
            return Path.touch, (ran,)

    with pytest.raises(CheckpointError, match="more than tensors and plain values"):
        read_checkpoint(saved(small() | {"callbacks": Code()}, tmp_path))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"state_dict": None}, "its state_dict is not a dictionary"),
        ({"hyper_parameters": [1]}, "its hyper_parameters is not a dictionary"),
        ({"state_dict": {"weight": 1.0}}, "state_dict.weight is a float, not a tensor"),
        ({"state_dict": {1: torch.ones(1)}}, "state_dict.1 is a Tensor"),
        ({"format_version": FORMAT_VERSION + 1}, "format_version: got 2; expected at most 1; install a newer"),
        ({"format_version": True}, "format_version: got True"),
        ({"format_version": "1"}, "format_version: got '1'"),
        ({"data": [1]}, "its data is a list"),
        ({"data": {"class_names": [1, 2]}}, "its class names are not a list of text"),
        ({"data": {"normalization": [[0.5], [0.0]]}}, "its normalization"),
        ({"data": {"normalization": [[0.5], [0.2, 0.2]]}}, "its normalization"),
        ({"data": {"normalization": [[math.nan], [0.2]]}}, "its normalization"),
        ({"data": {"normalization": 3}}, "its normalization"),
        ({"callbacks": {"a": [{"class_path": "os.system"}]}}, "callbacks.a.0 names code to run .class_path."),
        ({"hyper_parameters": {"_instantiator": "x"}}, "hyper_parameters names code to run"),
        (
            {"state_dict": {"weight": torch.tensor([1.0, math.nan])}},
            "state_dict.weight holds numbers that are not finite",
        ),
        ({"optimizer_states": [{"m": torch.tensor(math.inf)}]}, "optimizer_states.0.m holds numbers that are not"),
        ({"state_dict": {"weight": torch.eye(2).to_sparse()}}, "state_dict.weight is not a plain tensor"),
    ],
)
def test_content_that_no_model_has_is_refused(change: dict[str, Any], fault: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/model.ckpt: {fault}"):
        read_checkpoint(saved(small() | change, tmp_path))


@pytest.mark.parametrize("key", ["state_dict", "hyper_parameters"])
def test_bare_weights_are_no_checkpoint(key: str, tmp_path: Path) -> None:
    content = small()
    del content[key]
    with pytest.raises(CheckpointError, match=f"it has no {key}; .*not bare weights"):
        read_checkpoint(saved(content, tmp_path))
    with pytest.raises(CheckpointError, match="it holds a Tensor, not a checkpoint"):
        read_checkpoint(saved(torch.ones(2), tmp_path))


def test_nan_is_allowed_in_what_callbacks_keep(tmp_path: Path) -> None:
    read = read_checkpoint(saved(small() | {"callbacks": {"stop": {"score": torch.tensor(math.inf)}}}, tmp_path))
    assert math.isinf(read["callbacks"]["stop"]["score"])


@pytest.mark.parametrize(
    ("tensor", "finite"),
    [
        (torch.tensor([1, 2]), True),
        (torch.tensor([]), True),
        (torch.full((2,), torch.finfo(torch.float32).max), True),  # its sum overflows
        (torch.tensor([1.0, math.nan]), False),
        (torch.tensor([math.inf, -math.inf]), False),
        (torch.tensor([1.0, -math.inf]).half(), False),
    ],
)
def test_overflow_of_a_sum_is_not_taken_for_infinity(tensor: Tensor, finite: bool) -> None:
    assert is_finite(tensor) is finite


def test_weights_fit_by_name_and_shape() -> None:
    wanted = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    check_fit("x.ckpt", wanted, wanted)
    for saved_weights, fault in (
        ({"a": wanted["a"]}, "it has no b, which the network needs"),
        (wanted | {"c": torch.zeros(1)}, "it has c, which the network does not"),
        (wanted | {"a": torch.zeros(3, 2)}, r"a has the shape \(3, 2\), and in the network \(2, 3\)"),
    ):
        with pytest.raises(CheckpointError, match=f"x.ckpt: {fault}"):
            check_fit("x.ckpt", saved_weights, wanted)


def test_what_resuming_needs_is_named_one_by_one() -> None:
    content: dict[str, Any] = {"epoch": 1, "global_step": 2, "loops": {}, "callbacks": {}}
    content |= {"optimizer_states": [], "lr_schedulers": []}
    check_resumable("x.ckpt", content)
    for key in content:
        for changed in ({name: value for name, value in content.items() if name != key}, content | {key: "text"}):
            with pytest.raises(CheckpointError, match=f"x.ckpt: it has no {key}: training cannot resume from it"):
                check_resumable("x.ckpt", changed)


def test_a_flipped_bit_in_a_tensor_is_named_as_damage(tmp_path: Path) -> None:
    path = saved(small(), tmp_path)
    content = path.read_bytes()
    weight = small()["state_dict"]["weight"].numpy().tobytes()
    assert content.count(weight) == 1
    place = content.index(weight)
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(CheckpointError, match=r"it is damaged \(.*data.* fails its checksum\)"):
        read_checkpoint(path)
