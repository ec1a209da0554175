"""The C library's allocator, told to give memory back: large blocks by themselves, and few places for the small ones.

glibc raises the size from which a block is mapped by itself to that of the largest block that was freed, 32 MiB at
most. A process that has seen one body of ten megabytes then cuts the next from its heap, where a small block behind it
keeps it from going back; and each thread that allocates has a heap of its own.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

# Of malloc.h; setting one of the thresholds also ends their adapting themselves.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_MAPPED_BYTES_MIN: Final = 256 << 10
_TRIMMED_BYTES_MIN: Final = 1 << 20
_ARENAS_COUNT_MAX: Final = 2


def bound() -> bool:
    """Sets it for this process. False where there is no such allocator, which is none but glibc's."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    options = (
        (_M_MMAP_THRESHOLD, _MAPPED_BYTES_MIN),
        (_M_TRIM_THRESHOLD, _TRIMMED_BYTES_MIN),
        (_M_ARENA_MAX, _ARENAS_COUNT_MAX),
    )
    return all(mallopt(option, value) == 1 for option, value in options)
