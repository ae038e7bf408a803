"""Checkpoints of sharded heads: one file, read as those of torch.save, without the whole head in any process."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from thread_ranks import ThreadGroup, on_ranks
from tiny_runs import Largest
from torch import Tensor

from arcface_pl import ArcFaceHead, shard_head
from arcface_pl.checkpoints import reading
from arcface_pl.checkpoints.plugin import DurableCheckpointIO
from arcface_pl.checkpoints.reading import nested, read_checkpoint, release
from arcface_pl.checkpoints.streamed import streams
from arcface_pl.errors import CheckpointError
from arcface_pl.heads import ShardedHead, ShardRows

CLASSES, DIM = 11, 6


def whole_head(classes: int = CLASSES, dim: int = DIM) -> ArcFaceHead:
    torch.manual_seed(0)
    return ArcFaceHead(dim, classes, sub_centers=2)


def sharded(group: ThreadGroup, whole: ArcFaceHead) -> ShardedHead:
    head = copy.deepcopy(whole)
    head.__class__ = type(shard_head(copy.deepcopy(head)))  # type: ignore[assignment]
    assert isinstance(head, ShardedHead)
    head._begin(group, 1.0)
    head.state_in_shards = True
    return head


def content(head: ShardedHead | ArcFaceHead, rows: Any = lambda local: local) -> dict[str, Any]:
    """A checkpoint with what torch.save treats in a special way: strides, shared memory, empty and odd tensors."""
    layer = torch.nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(72.0).view(4, 2, 3, 3))
        layer.bias.fill_(0.5)  # type: ignore[union-attr]
    shared = torch.arange(8, dtype=torch.int32)
    odd = [torch.tensor(2.0, dtype=torch.bfloat16), torch.zeros(0, 3), shared[2:], shared, torch.tensor([True])]
    states = {
        "state": {0: {"exp_avg": rows(head.weight.detach() * 2), "step": rows(head.weight.detach()[:, 0].clone())}}
    }
    return {
        "state_dict": {**layer.state_dict(), **head.state_dict(prefix="head.")},
        "hyper_parameters": {"name": "x", "sizes": [1, 2.5, None]},
        "optimizer_states": [states],
        "pytorch-lightning_version": "2.6.6",
        "odd": odd,
    }


def save(group: ThreadGroup, checkpoint: dict[str, Any], path: Path) -> None:
    """As the Trainer does: the plugin in the main process, the others take part."""
    if group.rank == 0:
        DurableCheckpointIO().save_checkpoint(checkpoint, path)
    else:
        with streams(checkpoint):
            pass


@pytest.mark.parametrize("world", [2, 3])
def test_the_file_reads_as_that_of_the_whole_head(world: int, tmp_path: Path) -> None:
    path, plain, whole = tmp_path / "sharded.ckpt", tmp_path / "plain.ckpt", whole_head()

    def work(group: ThreadGroup) -> None:
        head = sharded(group, whole)
        save(group, content(head, lambda local: ShardRows(head, local)), path)

    on_ranks(world, work)
    torch.save(content(whole), plain)
    for kwargs in ({}, {"mmap": True}):
        one, other = (dict(nested(torch.load(each, weights_only=True, **kwargs))) for each in (path, plain))
        assert one.keys() == other.keys()
        for name, value in other.items():
            if isinstance(value, Tensor):
                assert one[name].stride() == value.stride()
                torch.testing.assert_close(one[name], value, rtol=0, atol=0, msg=name)
                assert one[name].data_ptr() % value.element_size() == 0
    assert one["odd.2"].untyped_storage().data_ptr() == one["odd.3"].untyped_storage().data_ptr()
    read = read_checkpoint(path)
    torch.testing.assert_close(read["state_dict"], read_checkpoint(plain)["state_dict"], rtol=0, atol=0)
    assert [each.name for each in tmp_path.iterdir()] in (
        ["sharded.ckpt", "plain.ckpt"],
        ["plain.ckpt", "sharded.ckpt"],
    )


def test_no_process_has_the_whole_when_it_writes_or_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, dim = tmp_path / "last.ckpt", 1000
    head = whole_head(3001, dim)
    monkeypatch.setattr("arcface_pl.heads.shard_rows._BLOCK_CELLS", 1 << 18)
    monkeypatch.setattr(reading, "LARGE", 1 << 20)

    def write(group: ThreadGroup) -> tuple[int, Tensor]:
        mine = sharded(group, head)
        with Largest() as largest:
            save(group, content(mine, lambda local: ShardRows(mine, local)), path)
        return largest.numel, mine.weight.detach()

    written = on_ranks(2, write)
    # The test's own momentum is as large as a shard
    assert max(numel for numel, _ in written) <= max(len(weight) for _, weight in written) * dim
    torch.testing.assert_close(torch.cat([weight for _, weight in written]), head.weight.detach(), rtol=0, atol=0)

    def load(group: ThreadGroup) -> Tensor:
        mine = sharded(group, head)
        torch.nn.init.zeros_(mine.weight)
        state = read_checkpoint(path, mapped=True)["state_dict"]
        mine.load_state_dict({name.removeprefix("head."): value for name, value in state.items() if "head." in name})
        return mine.weight.detach()

    assert torch.equal(torch.cat(on_ranks(3, load)), head.weight)


def test_small_tensors_of_a_mapped_checkpoint_outlive_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    monkeypatch.setattr(reading, "LARGE", 1000)
    large, small = torch.full((1000,), float("nan")), torch.arange(5.0)
    torch.save({"state_dict": {"large": large, "small": small}, "hyper_parameters": {}, "list": [small]}, path)
    with pytest.raises(CheckpointError, match="large holds numbers that are not finite"):
        read_checkpoint(path)
    read = read_checkpoint(path, mapped=True)  # whoever takes rows of it checks those
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(read["state_dict"]["small"], small)
    assert torch.equal(read["list"][0], small)


@pytest.mark.parametrize("fault", ["not finite", "no space"])
def test_a_failed_write_leaves_the_old_file_and_keeps_no_process_waiting(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = tmp_path / "last.ckpt", whole_head()
    path.write_bytes(b"old")
    if fault == "no space":

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("arcface_pl.checkpoints.streamed._bytes_of", full)

    def work(group: ThreadGroup) -> None:
        head = sharded(group, whole)
        if fault == "not finite" and group.rank == 1:
            head.weight.data[0, 0] = torch.inf
        checkpoint = content(head)
        if group.rank == 0:
            reason = "state_dict.head.weight is not finite" if fault == "not finite" else "No space left"
            with pytest.raises(CheckpointError, match=reason):
                save(group, checkpoint, path)
        else:
            save(group, checkpoint, path)
        group.sum(torch.zeros(1))  # the next call is the same one everywhere

    on_ranks(3, work)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]


def test_released_memory_has_the_same_numbers(tmp_path: Path) -> None:
    """Also where the tensor is not mapped from a file: the advice must not be one that drops its numbers."""
    numbers = torch.arange(100_000.0)
    torch.save(numbers, tmp_path / "numbers.pt")
    for tensor in (numbers.clone(), torch.load(tmp_path / "numbers.pt", mmap=True, weights_only=True)):
        for part in (tensor, tensor[3:], tensor[:5], tensor[:0]):
            release(part)
            assert torch.equal(tensor, numbers)
