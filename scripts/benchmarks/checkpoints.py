"""CPU time of writing and reading a checkpoint, next to torch.save.

python scripts/benchmarks/checkpoints.py --mib 512
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from arcface_pl.checkpoints.plugin import DurableCheckpointIO


def seconds(call: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def main() -> None:
    """Print one line per measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of the weights")
    parser.add_argument("--folder", default="/dev/shm", help="where to write")
    given = parser.parse_args()
    weights = {f"w{index}": torch.randn(2**18 * given.mib // 8) for index in range(8)}
    content = {"state_dict": weights, "hyper_parameters": {}, "pytorch-lightning_version": "2.6.6"}
    plugin = DurableCheckpointIO()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        plain, best, last = (Path(folder) / f"{name}.ckpt" for name in ("plain", "best", "last"))
        print(f"torch.save {seconds(lambda: torch.save(content, plain)):.2f} s")
        plain.unlink()
        print(f"write {seconds(lambda: plugin.save_checkpoint(content, best)):.2f} s")
        print(f"write again {seconds(lambda: plugin.link_checkpoint(best, last)):.4f} s")
        print(f"read {seconds(lambda: plugin.load_checkpoint(best)):.2f} s")


if __name__ == "__main__":
    main()
