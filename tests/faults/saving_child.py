"""Run by test_kill.py as a program: has torch in memory, and forks a writer of checkpoints for each line it reads.

    python saving_child.py FOLDER

A line is the number that the writer begins with. The writer's process number is printed, then the number of each
checkpoint once it is written; it goes on until it is killed. What a checkpoint holds follows from its number.
"""

import os
import sys
from itertools import count
from pathlib import Path
from typing import Any

import torch

from arcface_pl.checkpoints.atomic import write_checkpoint


def content(number: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(number)
    weights = {f"layer{layer}": torch.randn(64, 1024, generator=generator) for layer in range(4)}
    return {"number": number, "state_dict": weights, "hyper_parameters": {}}


def write(folder: Path, first: int) -> None:
    for number in count(first):
        write_checkpoint(content(number), folder / "last.ckpt")
        os.write(1, b"%d\n" % number)


if __name__ == "__main__":
    for line in sys.stdin:
        if not (pid := os.fork()):
            write(Path(sys.argv[1]), int(line))
        os.write(1, b"pid %d\n" % pid)
        os.waitpid(pid, 0)
        os.write(1, b"gone\n")
