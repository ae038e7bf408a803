"""Run by test_kill.py as a program: has torch in memory, and forks writers of checkpoints for each line it reads.

    python saving_child.py FOLDER PROCESSES

A line is the number that the writers begin with. Once they are ready their process numbers are printed, then the
number of each checkpoint once it is written; they go on until they are killed. What a checkpoint holds follows from its
number. With PROCESSES 0 it is a plain one, otherwise one whose head is sharded over so many processes.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import torch

from arcface_pl import ArcFaceHead, shard_head
from arcface_pl.checkpoints.atomic import write_checkpoint
from arcface_pl.checkpoints.plugin import DurableCheckpointIO
from arcface_pl.checkpoints.streamed import streams
from arcface_pl.heads import ShardedHead, ShardRows, shard_rows


def content(number: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(number)
    weights = {f"layer{layer}": torch.randn(64, 1024, generator=generator) for layer in range(4)}
    return {"number": number, "state_dict": weights, "hyper_parameters": {}}


def sharded_content(number: int, head: ShardedHead) -> dict[str, Any]:
    """As `content`, with rows of all processes."""
    found = content(number)
    rows = [ShardRows(head, head.share(whole)) for whole in found["state_dict"].values()]
    return {**found, "state_dict": dict(zip(found["state_dict"], rows, strict=True))}


def write(folder: Path, first: int, processes: int, rank: int, pids: list[int], store: str) -> None:
    path = folder / "last.ckpt"
    save: Callable[[int], None] = lambda number: write_checkpoint(content(number), path)  # noqa: E731
    if processes:
        if processes > 1:
            torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
        head = shard_head(ArcFaceHead(1024, 64))

        def save(number: int) -> None:
            checkpoint = sharded_content(number, head)
            if rank == 0:
                DurableCheckpointIO().save_checkpoint(checkpoint, path)
            else:
                with streams(checkpoint):
                    pass

    if rank == 0:
        os.write(1, b"pid %s\n" % b" ".join(b"%d" % pid for pid in (os.getpid(), *pids)))
    for number in count(first):
        save(number)
        if rank == 0:
            os.write(1, b"%d\n" % number)


def main(folder: Path, processes: int) -> None:
    shard_rows._BLOCK_CELLS = 1 << 14  # several blocks of each tensor
    with tempfile.TemporaryDirectory() as stores:
        for attempt, line in enumerate(sys.stdin):
            pids: list[int] = []
            for rank in reversed(range(max(1, processes))):
                if not (pid := os.fork()):
                    with suppress(BaseException):  # the other process is gone
                        write(folder, int(line), processes, rank, pids, f"file://{stores}/{attempt}")
                    os._exit(1)
                pids.append(pid)
            for pid in pids:
                os.waitpid(pid, 0)
            os.write(1, b"gone\n")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main(Path(sys.argv[1]), int(sys.argv[2]))
