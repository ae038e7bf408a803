"""Time verification over all pairs, and retrieval, against scikit-learn and faiss; measure the memory each adds.

    python scripts/benchmarks/all_pairs_speed.py --num_embeddings 20000 --threads 2 --repeats 5 --json verification.json

Every measurement is a fresh process; the contenders take turns, and medians are printed. The time is that of the call
alone: scikit-learn's ``roc_curve`` is handed the scores of all pairs, while ``all_pairs_curve`` makes them itself from
the embeddings. Memory is the peak of resident memory during the call above what was resident before it (so for
``roc_curve`` not the scores it was handed). A contender that is not installed is left out; ``--only`` picks some.
Linux with glibc only: peaks are reset through /proc.
"""

import argparse
import ctypes
import gc
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arcface_pl.metrics.functional import all_pairs_curve, pair_scores, recall_at_k

FAR = 1e-3
K = 10


def make_embeddings(num: int, dim: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Normal clusters around normal centers: about 3% equal error rate at 10 classes and 128 dimensions."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (num,), generator=generator)
    centers = torch.randn(num_classes, dim, generator=generator)
    return F.normalize(0.7 * centers[labels] + torch.randn(num, dim, generator=generator), dim=1), labels


def ours_verification(embeddings: Tensor, labels: Tensor) -> Callable[[], dict[str, float]]:
    """Exact error rates from embeddings, by blocks."""

    def run() -> dict[str, float]:
        curve = all_pairs_curve(embeddings, labels, far=[FAR])
        return {"tar": curve.tar_at_far(FAR)[0], "eer": curve.equal_error_rate()[0]}

    return run


def sklearn_verification(embeddings: Tensor, labels: Tensor) -> Callable[[], dict[str, float]]:
    """Error rates from the scores of all pairs, made beforehand."""
    import numpy as np
    from sklearn.metrics import roc_curve

    genuine, impostor = pair_scores(embeddings, labels)
    scores = torch.cat((genuine, impostor)).numpy()
    is_genuine = np.arange(len(scores)) < len(genuine)

    def run() -> dict[str, float]:
        far, tar, _ = roc_curve(is_genuine, scores)
        crossing = int(np.searchsorted(far + tar, 1.0))
        before, after = (far + tar)[crossing - 1 : crossing + 1] - 1
        eer = far[crossing - 1] + (far[crossing] - far[crossing - 1]) * before / (before - after)
        return {"tar": float(tar[np.searchsorted(far, FAR, side="right") - 1]), "eer": float(eer)}

    return run


def ours_retrieval(embeddings: Tensor, labels: Tensor) -> Callable[[], dict[str, float]]:
    """recall@k, each embedding looked up among the others."""
    return lambda: {"recall": recall_at_k(embeddings, labels, K)}


def sklearn_retrieval(embeddings: Tensor, labels: Tensor) -> Callable[[], dict[str, float]]:
    """recall@k from scikit-learn's brute-force neighbours, the query itself dropped by its position."""
    from sklearn.neighbors import NearestNeighbors

    vectors = embeddings.numpy()

    def run() -> dict[str, float]:
        search = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(vectors)
        found = labels[torch.from_numpy(search.kneighbors(return_distance=False))]
        return {"recall": float((found == labels[:, None]).any(1).double().mean())}

    return run


def faiss_retrieval(embeddings: Tensor, labels: Tensor) -> Callable[[], dict[str, float]]:
    """recall@k from faiss's exact inner-product index, the query itself dropped by its position."""
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    vectors = embeddings.numpy()

    def run() -> dict[str, float]:
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        found = torch.from_numpy(index.search(vectors, K + 1)[1])
        is_self = found == torch.arange(len(found))[:, None]
        is_self[~is_self.any(1), -1] = True
        others = labels[found[~is_self].view(-1, K)]
        return {"recall": float((others == labels[:, None]).any(1).double().mean())}

    return run


CONTENDERS = {
    "verification/arcface_pl": ours_verification,
    "verification/scikit-learn": sklearn_verification,
    "retrieval/arcface_pl": ours_retrieval,
    "retrieval/scikit-learn": sklearn_retrieval,
    "retrieval/faiss": faiss_retrieval,
}
PACKAGES = {"scikit-learn": "scikit-learn", "faiss": "faiss-cpu", "arcface_pl": "torch"}


def resident_mib(field: str) -> float:
    """A memory figure of this process: VmRSS is now, VmHWM the peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run one contender once, after a small warm-up call, in this process."""
    torch.set_num_threads(options.threads)
    prepare = CONTENDERS[options.measure]
    prepare(*make_embeddings(500, options.dim, options.num_classes))()
    run = prepare(*make_embeddings(options.num_embeddings, options.dim, options.num_classes))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the warm-up left in the allocator would not count as extra
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before, start = resident_mib("VmRSS"), time.perf_counter()
    answer = run()
    return {"seconds": time.perf_counter() - start, "extra_mib": resident_mib("VmHWM") - before, "answer": answer}


def measure_in_turn(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Every contender in a process of its own, all of them once, then all of them again."""
    names = [name for name in options.only or CONTENDERS if installed(name)]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    sizes = [f"--{key}={getattr(options, key)}" for key in ("num_embeddings", "dim", "num_classes", "threads")]
    for _ in range(options.repeats):
        for name in names:
            command = [sys.executable, __file__, *sizes, "--measure", name]
            output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            results[name].append(json.loads(output.splitlines()[-1]))
    return results


def installed(name: str) -> str | None:
    """The version of the package that a contender needs, or None."""
    try:
        return importlib.metadata.version(PACKAGES[name.split("/")[1]])
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_embeddings", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--num_classes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, help="default: all")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)  # what a fresh process is told
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    results = measure_in_turn(options)
    sizes = {key: getattr(options, key) for key in ("num_embeddings", "dim", "num_classes", "threads", "repeats")}
    print(", ".join(f"{key} {value}" for key, value in sizes.items()))
    print(f"{'':28}{'median s':>10}{'least':>10}{'most':>10}{'extra MiB':>11}  answer")
    for name, runs in results.items():
        seconds = [run["seconds"] for run in runs]
        extra = statistics.median(run["extra_mib"] for run in runs)
        figures = f"{statistics.median(seconds):10.3f}{min(seconds):10.3f}{max(seconds):10.3f}{extra:11.1f}"
        print(f"{name:28}{figures}  {runs[0]['answer']}")
    if options.json:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        versions = {"python": platform.python_version(), **{name: installed(name) for name in results}}
        options.json.write_text(json.dumps({**sizes, **machine, "versions": versions, "results": results}, indent=2))


if __name__ == "__main__":
    main()
