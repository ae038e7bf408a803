import gc
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_runs import TINY_FIT

from arcface_pl.cli import main
from arcface_pl.cli.machine import stop_driver_search


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_blocks_stay_with_the_process() -> None:
    # A 256 MiB block, touched and freed: by default glibc unmaps it; kept, it still counts as resident.
    code = """
import ctypes, resource, sys
from arcface_pl.cli.machine import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
block = libc.malloc(1 << 28)
ctypes.memset(block, 1, 1 << 28)
libc.free(block)
print(int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize())
"""
    resident = {
        how: int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, check=True, timeout=60).stdout)
        for how in ("keep", "return")
    }
    assert resident["keep"] - resident["return"] > 200 * 2**20


def test_without_a_gpu_no_step_looks_for_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def search() -> int:
        searches.append(1)
        return -1  # torch's word for no driver found

    searches: list[int] = []
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", search)
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", lambda: 0)
    weight = torch.ones(1, requires_grad=True)
    weight.sum().backward()
    optimizer = torch.optim.Adam([weight])
    optimizer.step()
    assert searches  # or there is nothing to be spared any more
    stop_driver_search()
    searches.clear()
    optimizer.step()
    assert not searches


def test_with_a_gpu_the_driver_goes_on_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    stop_driver_search()
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_waiting_threads_go_to_sleep_unless_the_user_has_a_say(given: dict[str, str], spins: str) -> None:
    code = "import os; from arcface_pl.cli import main; main(['--version']); print(os.environ.get('GOMP_SPINCOUNT'))"
    unset = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**unset, **given}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == spins


@pytest.fixture
def threads() -> Iterator[None]:
    """Leave the next test as many threads as there were."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("in_folder", "threads")
def test_how_threads_wait_is_printed_and_saved_and_kept_from_no_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for number, spins in enumerate(("2000", "7")):
        monkeypatch.setenv("GOMP_SPINCOUNT", spins)
        main(["fit", *TINY_FIT, "--model.num_threads", "2"])
        assert f"2 thread(s), GOMP_SPINCOUNT={spins}" in capsys.readouterr().out
        run = Path(f"lightning_logs/version_{number}")
        assert json.loads((run / "results.json").read_text())["waiting_threads"] == {"GOMP_SPINCOUNT": spins}
    monkeypatch.setenv("GOMP_SPINCOUNT", "8")  # results do not depend on it: the resume is exact
    main(["fit", "--ckpt_path", "last", "--max_epochs", "3"])


def test_only_imports_and_the_end_go_without_garbage_collection(capsys: pytest.CaptureFixture) -> None:
    main(["fit", "--data.dataset", "digits", "--print_config"])
    assert gc.isenabled()
    assert "digits" in capsys.readouterr().out
    code = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 0))  # runs after what is registered later
from arcface_pl.cli import main
main(["evaluate", "nosuch.ckpt"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "True"
