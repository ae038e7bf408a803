"""What a run picks by itself where a setting says auto; the choice is printed, and saved as if it had been typed."""

import ctypes
import logging
import math
import os
import platform
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

# Instructions that multiply bfloat16. On a Xeon with both, a step of a network like SmallResNet took 0.47 of what
# it takes in float32; without them bfloat16 is emulated, and several times slower (pytorch#183815).
BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")


def choose_precision(accelerator: str, instructions: Mapping[str, Any] | None = None) -> str:
    """Choose the precision that is fastest without harm: head, loss and weights are in float32 either way.

    Args:
        accelerator: The Trainer's: cpu, gpu, cuda, mps or auto.
        instructions: What the processor can do, as ``torch.cpu.get_capabilities()`` has it; unset: this one.

    Returns:
        "bf16-mixed" where the device multiplies bfloat16, else "32-true".
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if accelerator == "mps" or (accelerator in ("auto", "gpu") and torch.backends.mps.is_available()):
        return "32-true"
    capabilities = torch.cpu.get_capabilities() if instructions is None else instructions
    return "bf16-mixed" if any(capabilities.get(name) for name in BF16_INSTRUCTIONS) else "32-true"


def choose_threads(devices: Any = 1) -> int:
    """Choose the CPU threads of each process: $OMP_NUM_THREADS, or what affinity and control group allow all of them.

    The load of the machine has no say, since results differ in their last bits between numbers of threads.

    Args:
        devices: The Trainer's: a number is that of the processes that share this machine.

    Returns:
        At least 1.
    """
    threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ:
        return threads
    quota = cpu_quota()
    processes = devices if isinstance(devices, int) and devices > 0 else 1
    return max(1, (threads if quota is None else min(threads, quota)) // processes)


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Read how many cores' worth of time this process's control group may use: a container's limit.

    The processor count and the affinity mask, from which torch takes its number of threads, do not show it, and more
    threads than that are stopped for most of every period.

    Args:
        root: Where the control groups are mounted.

    Returns:
        The quota in cores, rounded up, at least 1; None where there is none.
    """
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit():  # "max", or -1 in version 1: no limit
        return None
    return max(1, math.ceil(int(quota) / int(period)))


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names and numbers of glibc's malloc.h
_LARGEST = 1 << 30


def keep_freed_memory() -> bool:
    """Let the allocator keep what a step frees for the next one, on Linux with glibc; elsewhere do nothing.

    A step on a CPU frees and makes the same activations of some megabytes each. By default glibc returns such blocks to
    the kernel at once, which then clears every page anew: several per cent of a step.

    Returns:
        Whether it took effect.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(option, _LARGEST) == 1 for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD))


def stop_driver_search() -> None:
    """Where there is no NVIDIA GPU, spare each step the search of the disk for its driver's library.

    torch's optimizers ask before a step whether there is a device. Lightning has that answered through the driver's
    management library, which where it is missing is looked for anew each time: 0.3 ms on a 2-core machine. Without
    a GPU to be kept from forked processes, the runtime's own answer will do.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def prepare_process(log_level: int) -> None:
    """Prepare this process for training, and silence what repeats our own output.

    Args:
        log_level: The least level of Lightning's remarks, such as those on devices, that is printed.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(log_level)
    # Lightning reads a torch class that torch 2.13 deprecated: nothing that a user could change
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    keep_freed_memory()
    stop_driver_search()
