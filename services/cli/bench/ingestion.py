"""`isthmus bench ingest`: a text on its way into a session, and the memory of the processes it passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from services.cli.bench import machine, memory
from services.cli.bench.client import CHUNK_BYTES, BenchClient
from services.supervisor.state import MeshState

_MB: Final = 1_000_000


async def measure(mesh: MeshState, file: Path) -> dict[str, Any]:
    """Speed, and the resident memory of each process: before, after, and the most while the file went through."""
    pids = {each.name: each.pid for each in mesh.processes if each.pid is not None}
    described = machine.describe()
    async with BenchClient(mesh.grpc) as client:
        session = f"bench-{time.time_ns()}"
        await client.create(session)
        await client.ingest(session, "warm-up", _file(file, CHUNK_BYTES))
        memory.forget_peak(pids.values())
        before = {name: memory.resident_bytes([pid]) for name, pid in pids.items()}
        started = time.perf_counter()
        document = await client.ingest(session, "file", _file(file))
        seconds = time.perf_counter() - started
    return {
        "machine": described,
        "file_bytes": document.committed_bytes,
        "fragments": document.fragment_count,
        "seconds": round(seconds, 3),
        "mb_per_s": round(document.committed_bytes / _MB / seconds, 2),
        "resident_mb": {name: _resident(before[name], pid) for name, pid in pids.items()},
    }


async def _file(path: Path, bytes_max: int | None = None) -> AsyncIterator[bytes]:
    """The file in chunks, or what it begins with, cut at a character."""
    with path.open("rb") as opened:
        if bytes_max is not None:
            yield opened.read(bytes_max).decode(errors="ignore").encode()
            return
        while chunk := await asyncio.to_thread(opened.read, CHUNK_BYTES):
            yield chunk


def _resident(before_bytes: int, pid: int) -> dict[str, float]:
    sizes = {"before": before_bytes, "after": memory.resident_bytes([pid]), "peak": memory.peak_bytes([pid])}
    return {name: round(size / _MB, 1) for name, size in sizes.items()}
