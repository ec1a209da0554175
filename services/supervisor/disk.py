"""Brings the embedded Valkey's append-only file to the disk, once an interval, beside Valkey.

With its own `appendfsync everysec` Valkey answers before it writes while an fsync is under way, and a SIGKILL in that
moment loses what was acknowledged. With `no` each answer follows its write, so a dead process loses nothing; what is
left to do, for a machine that loses power, is this.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path


def sync(folder: Path) -> int:
    """Waits until all that was written to the append-only files of a data folder is on the disk; how many there are."""
    files = sorted(folder.glob("appendonlydir/*.incr.aof"))
    for file in files:
        # A rewrite may have replaced it by now, and has synced what it replaced it with.
        with contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
            os.fsync(opened.fileno())
    return len(files)


async def keep_synced(folder: Path, interval_ms: int) -> None:
    """Syncs every `interval_ms` until cancelled. Raises OSError when the disk refuses."""
    while True:
        await asyncio.sleep(interval_ms / 1_000)
        await asyncio.to_thread(sync, folder)
