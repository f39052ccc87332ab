"""Freed memory goes back to the system."""

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes
from agentrl.memory import release_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
blocks = [libc.malloc(100_000) for _ in range(4000)]  # below the threshold of a mapping of their own
for block in blocks:
    libc.memset(block, 1, 100_000)
for index, block in enumerate(blocks):
    if index % 10:  # holes between blocks that stay
        libc.free(block)
before = resident()
release_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_holes_between_live_blocks_are_returned() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 250e6
