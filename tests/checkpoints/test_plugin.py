"""The Trainer's plugin: finite weights only, and no second read of what was read."""

from pathlib import Path

import pytest
import torch

from arcface_pl.checkpoints import reading
from arcface_pl.checkpoints.plugin import DurableCheckpointIO
from arcface_pl.checkpoints.reading import CheckpointFile, is_finite, read_checkpoint
from arcface_pl.errors import CheckpointError

CONTENT = {"state_dict": {"w": torch.ones(3)}, "hyper_parameters": {}, "pytorch-lightning_version": "2.6.6"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_finite_is_what_isfinite_says_though_the_sum_overflows(dtype: torch.dtype) -> None:
    largest = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    assert is_finite(largest)
    assert is_finite(torch.empty(0, dtype=dtype))
    for bad in ("nan", "inf", "-inf"):
        for place in (0, 500, 999):
            wrong = largest.clone()
            wrong[place] = float(bad)
            assert not is_finite(wrong)
    assert not is_finite(torch.tensor([float("inf"), float("-inf")], dtype=dtype))
    assert is_finite(torch.tensor([2**62, 2**62]))


@pytest.mark.parametrize("section", ["state_dict", "optimizer_states"])
def test_weights_that_are_not_finite_are_not_written(tmp_path: Path, section: str) -> None:
    content = {**CONTENT, section: {"a": {"b": [torch.tensor([1.0, float("nan")])]}}}
    with pytest.raises(CheckpointError, match=rf"{section}.a.b.0 is not finite"):
        DurableCheckpointIO().save_checkpoint(content, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


def test_what_was_read_is_handed_over_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.ckpt"
    plugin = DurableCheckpointIO()
    plugin.save_checkpoint(CONTENT, path)
    read = CheckpointFile(path, read_checkpoint(path))
    plugin = DurableCheckpointIO(read)
    assert plugin.load_checkpoint(str(path)) is read.content
    assert plugin.load_checkpoint(path) is not read.content  # it may have been written anew since
    assert DurableCheckpointIO(read).load_checkpoint(path) is read.content
    monkeypatch.setattr(reading, "_check_archive", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        DurableCheckpointIO(CheckpointFile(tmp_path / "other.ckpt", read.content)).load_checkpoint(path)
