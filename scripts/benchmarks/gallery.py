"""CPU time and memory of a gallery: load, search, enroll.

python scripts/benchmarks/gallery.py --names 100000
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from arcface_pl.recognizer import Gallery


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds and the result."""
    begun = time.process_time()
    result = call()
    return time.process_time() - begun, result


def resident() -> float:
    """Return the MiB of memory that this process uses (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def main() -> None:
    """Print one line per measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    given = parser.parse_args()
    torch.manual_seed(0)
    rows = F.normalize(torch.randn(given.names + 1, given.dim), dim=1)
    with tempfile.TemporaryDirectory() as folder:
        gallery = Gallery(given.dim)
        for index in range(given.names):
            gallery.add(f"n{index}", rows[index : index + 1])
        gallery.save(folder, "model")
        del gallery
        before = resident()
        seconds, gallery = timed(lambda: Gallery.load(folder, "model"))
        print(f"load {seconds:.2f} s")
        print(f"first search {1e3 * timed(lambda: gallery.search(rows[:1], 5))[0]:.1f} ms")
        print(f"next {1e3 * median(timed(lambda: gallery.search(rows[:1], 5))[0] for _ in range(10)):.1f} ms")
        print(f"memory {resident() - before:.0f} MiB")
        gallery.add("another", rows[-1:])
        print(f"search after enrolling one {1e3 * timed(lambda: gallery.search(rows[:1], 5))[0]:.1f} ms")


if __name__ == "__main__":
    main()
