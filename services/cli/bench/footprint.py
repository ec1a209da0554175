"""What a mesh's sessions take: Valkey's memory, the shards' memory, objects in the folder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services import valkey
from services.cli.bench import memory
from services.supervisor.state import MeshState

_ROOM: Final = "context_store"
_FOLDER: Final = "objects/sessions"
# Of INFO's memory.
_BESIDE_KEYS: Final = ("mem_clients_normal", "mem_clients_slaves", "mem_total_replication_buffers", "mem_aof_buffer")
# Commands that are on their way to Valkey at once.
_CONCURRENT: Final = 32


@dataclass(frozen=True, slots=True)
class Used:
    """Bytes of all primaries: now, at most since they started, and their bound. `is_within` holds for each of them.

    `keys` is what of it is neither for connections nor for replication.
    """

    now: int
    keys: int
    peak: int
    bound: int
    is_within: bool


class Footprint:
    """Reads what one tenant's sessions take in a mesh of the benchmark's own."""

    def __init__(self, client: valkey.Client, mesh: MeshState, tenant: str) -> None:
        self._client = client
        self._tenant = tenant
        self._objects = Path(mesh.home) / _FOLDER / tenant
        self._shards = {each.name: each.pid for each in mesh.processes if each.room == _ROOM and each.pid}

    async def used(self) -> Used:
        """Valkey's memory."""
        infos: list[Mapping[str, int]] = [
            await valkey.command(node, "INFO", "memory") for node in await valkey.primaries(self._client)
        ]
        now, peak, bound = (
            sum(info[name] for info in infos) for name in ("used_memory", "used_memory_peak", "maxmemory")
        )
        beside = sum(info.get(name, 0) for info in infos for name in _BESIDE_KEYS)
        return Used(
            now, now - beside, peak, bound, all(info["used_memory_peak"] <= info["maxmemory"] for info in infos)
        )

    def shards(self) -> dict[str, dict[str, int]]:
        """Bytes resident in each shard, and at most since the last `forget_peak`."""
        return {
            name: {"rss_bytes": memory.resident_bytes([pid]), "rss_bytes_peak": memory.peak_bytes([pid])}
            for name, pid in self._shards.items()
        }

    async def of_sessions(self, sessions: Container[str]) -> int:
        """Bytes of the keys that some of the sessions have in Valkey."""
        prefix = f"isthmus:{{{self._tenant}/"
        found = {key async for key in valkey.scan_keys(self._client, f"{prefix}*")}
        keys = [key for key in found if key.decode().removeprefix(prefix).partition("}")[0] in sessions]
        total = 0
        for start in range(0, len(keys), _CONCURRENT):
            total += sum(await asyncio.gather(*map(self._size, keys[start : start + _CONCURRENT])))
        return total

    async def _size(self, key: bytes) -> int:
        size: int | None = await valkey.command(self._client, "MEMORY", "USAGE", key)
        return size or 0

    async def cold_count(self) -> int:
        """About how many sessions are objects: each has a folder from shortly before until it comes back."""
        return await asyncio.to_thread(_count, self._objects)

    async def objects(self) -> tuple[int, int]:
        """How many objects there are, and their bytes."""
        sizes = await asyncio.to_thread(_sizes, self._objects)
        return len(sizes), sum(sizes)


def _count(folder: Path) -> int:
    return len(os.listdir(folder)) if folder.exists() else 0  # noqa: PTH208 - names alone, of a hundred thousand


def _sizes(folder: Path) -> Sequence[int]:
    found: list[int] = []
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                found.append(os.stat(os.path.join(path, name)).st_size)  # noqa: PTH116, PTH118 - the same
            except FileNotFoundError:
                # It has come back meanwhile.
                continue
    return found
