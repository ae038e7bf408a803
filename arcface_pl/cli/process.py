"""What a training process sets for itself before the first tensor."""

import ctypes
import platform

__all__ = ["keep_freed_memory"]

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
