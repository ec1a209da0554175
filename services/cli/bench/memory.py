"""How much memory and processor time processes take, from /proc, so on Linux only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_CLEAR_PEAK = "5"


def resident_bytes(pids: Iterable[int]) -> int:
    """Bytes resident now, over all the processes."""
    return sum(_status(pid, "VmRSS") for pid in pids)


def peak_bytes(pids: Iterable[int]) -> int:
    """The most bytes that were resident since the start or the last `forget_peak`, summed over the processes."""
    return sum(_status(pid, "VmHWM") for pid in pids)


def forget_peak(pids: Iterable[int]) -> None:
    """Starts each process's peak anew from what is resident now."""
    for pid in pids:
        (_PROC / str(pid) / "clear_refs").write_text(_CLEAR_PEAK)


def with_children(pid: int) -> list[int]:
    """The process and all that it started, directly or not."""
    found = [pid]
    for parent in found:
        for task in (_PROC / str(parent) / "task").glob("*/children"):
            found.extend(map(int, task.read_text().split()))
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of the process and its ended children, in user and in kernel mode."""
    # Its name, in parentheses, may itself hold spaces; utime, stime, cutime and cstime are fields 14 to 17.
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _status(pid: int, field: str) -> int:
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise ProcessLookupError(f"process {pid}: no {field}; it has ended")
