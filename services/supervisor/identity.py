"""Which process a pid stands for: pids are used again, a start time on one boot is not."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

_PROC = Path("/proc")
_HAS_PROC = (_PROC / "self" / "stat").exists()
_PS_MS_MAX = 5_000


def started(pid: int) -> str | None:
    """A text that no other process of this pid has had or will have; None if no such process lives."""
    return _started_by_proc(pid) if _HAS_PROC else _started_by_ps(pid)


def runs(pid: int, argv: Sequence[str]) -> bool:
    """Whether the process was started as `argv`, or is about to become that."""
    if _HAS_PROC:
        try:
            arguments = (_PROC / str(pid) / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except OSError:
            return False
        return arguments[-len(argv) :] == [each.encode() for each in argv]
    return _ps(pid, "command=").endswith(" ".join(argv))


def _started_by_proc(pid: int) -> str | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The command's name, in parentheses, may itself hold spaces and parentheses.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else f"{boot}:{fields[18]}"


def _started_by_ps(pid: int) -> str | None:
    return _ps(pid, "lstart=") or None


def _ps(pid: int, column: str) -> str:
    command = ["/bin/ps", "-ww", "-o", column, "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PS_MS_MAX / 1_000)
    return done.stdout.strip()
