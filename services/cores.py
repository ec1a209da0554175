"""The machine's cores, as far as this process may use them."""

from __future__ import annotations

import os


def cores_count() -> int:
    """How many there are for it: fewer than the machine's where it is bound to some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
