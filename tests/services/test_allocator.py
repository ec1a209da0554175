"""Large blocks go back to the system, whatever was freed before them."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A block of 24 MB that is freed raises glibc's own threshold above the next; a small one then keeps it from going back.
_PROGRAM = """
import os, sys
from services import allocator
if not allocator.bound():
    sys.exit(77)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
del [bytearray(24 << 20)][:]
before = resident()
held = []
for _ in range(8):
    block = bytearray(12 << 20)
    held.append(bytearray(4096))
    del block
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what is set is glibc's")
def test_a_large_block_that_is_freed_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4 << 20
