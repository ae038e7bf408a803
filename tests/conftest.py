"""Fixtures for any test: a Trainer that prints and writes nothing, a module and data that train in milliseconds.

torch and Lightning are imported where they are used: the process that hands tests to the workers of xdist needs
neither, and they wait for it.
"""

import functools
import gc
import importlib.metadata
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import lightning as L
    from torch import Tensor
    from torch.utils.data import DataLoader

    from arcface_pl import ArcFaceModule

# Tests train in temporary folders, of which the folder they are started in keeps a record: `--ckpt_path last` would
# then mean the run of a test.
RECORD = Path(".arcface_pl_runs").absolute()

# Each new Trainer reads the entry points of all installed packages; they stay the same while tests run. Lightning takes
# this name when it is imported.
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)


def pytest_configure(config: pytest.Config) -> None:
    """Compute on one thread unless told otherwise; ignore Lightning's remarks about runs as small as those of tests.

    Threads that wait for one another cost more than they gain on tensors as small as these.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when it is imported, here and in processes of tests
    for message in (
        "You defined a `validation_step`",  # some runs only train
        "The number of training batches",  # and are shorter than a logging interval
        ".*does not have many workers",  # tensors in memory need none
    ):
        config.addinivalue_line("filterwarnings", f"ignore:{message}")
    if not hasattr(config, "workerinput"):
        config.add_cleanup(functools.partial(_restore, RECORD, RECORD.read_bytes() if RECORD.is_file() else None))


def _restore(file: Path, content: bytes | None) -> None:
    if content is not None:
        file.write_bytes(content)
    else:
        file.unlink(missing_ok=True)


def pytest_collection(session: pytest.Session) -> None:
    """Import the tests without garbage collection: modules are no garbage."""
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files whose tests have the longest time limits: one that ends last leaves the other process idle."""
    limits: dict[Path, float] = {}
    for item in items:
        limit = item.get_closest_marker("timeout")
        limits[item.path] = max(limits.get(item.path, 0), limit.args[0] if limit else 0)
    items.sort(key=lambda item: -limits[item.path])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what is imported out of every later collection, each of which would take 0.75 s to search it.

    First comes what looks for references when it is imported or first used: it would not see those of frozen objects.
    """
    from hypothesis import given, strategies

    given(strategies.none())(lambda nothing: None)()
    gc.freeze()
    gc.enable()


LAUNCHER = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK", "RANK")


@pytest.fixture(autouse=True)
def nothing_launched() -> Iterator[None]:
    """End the process group of a run in this process, whose address the next test's processes would take for theirs."""
    before = {name: os.environ.get(name) for name in LAUNCHER}
    yield
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder, ``tmp_path``, without the seed that a run of another test left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    return tmp_path


@pytest.fixture
def make_trainer(in_folder: Path) -> "Callable[..., L.Trainer]":
    """``make_trainer(**arguments)``: a CPU Trainer without logger, bar or checkpoints; its root is ``tmp_path``.

    Run there, since runs that lie elsewhere are recorded in the current folder.
    """
    import lightning as L
    from tiny_runs import QUIET

    return lambda **arguments: L.Trainer(**{**QUIET, "default_root_dir": in_folder, **arguments})


@pytest.fixture
def tiny_module() -> "Callable[..., ArcFaceModule]":
    """``tiny_module(**arguments)``: FastCNN on 1 x 28 x 28 to 16 dimensions, ArcFace over 4 classes, seeded weights."""
    import torch

    from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN

    def make(**arguments: Any) -> ArcFaceModule:
        torch.manual_seed(0)
        return ArcFaceModule(**{"backbone": FastCNN(16, width=4), "head": ArcFaceHead(16, 4), **arguments})

    return make


@pytest.fixture
def tiny_batch() -> "Callable[..., tuple[Tensor, Tensor]]":
    """``tiny_batch(size=32)``: seeded images (size, 1, 28, 28) and labels (size,) in [0, 4)."""
    import torch

    def make(size: int = 32) -> "tuple[Tensor, Tensor]":
        generator = torch.Generator().manual_seed(1)
        return torch.randn(size, 1, 28, 28, generator=generator), torch.arange(size) % 4

    return make


@pytest.fixture
def tiny_loader(tiny_batch: "Callable[..., tuple[Tensor, Tensor]]") -> "Callable[..., DataLoader]":
    """``tiny_loader(size=32, batch_size=8)``: a plain DataLoader over `tiny_batch`, in order."""
    from torch.utils.data import DataLoader, TensorDataset

    return lambda size=32, batch_size=8: DataLoader(TensorDataset(*tiny_batch(size)), batch_size)
