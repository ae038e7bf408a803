"""What a training process sets for itself before the first tensor."""

import ctypes
import os
import platform

import torch

__all__ = ["keep_freed_memory", "stop_driver_search"]

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
