import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_blocks_stay_with_the_process() -> None:
    # A 256 MiB block, touched and freed: by default glibc unmaps it; kept, it still counts as resident.
    code = """
import ctypes, resource, sys
from arcface_pl.cli.process import keep_freed_memory
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
