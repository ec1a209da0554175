"""What is read of sessions in Valkey: one method a read, with types. Nothing is decided here."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from isthmus.session.v1 import document_pb2
from redis.asyncio import Redis

from context_store.keys import Keys, tenant_index
from context_store.stored import Meter, Row, Snapshot, document_of
from services.errors import NotFound
from services.telemetry import HOP, tracer
from services.valkey import Argument, Script

_SCRIPTS: Final = Path(__file__).parent / "scripts"
_HOP: Final = {HOP: "context_store.valkey"}
_SCAN_COUNT: Final = 1000
_LISTED: Final = ("own", "revision", "turn_count", "open_turn", "epoch")


class LogReads:
    """Reads of the sessions. Every method raises redis' errors when Valkey is away, NotFound for no session."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._scripts = {path.stem: Script(path) for path in _SCRIPTS.glob("*.lua")}

    async def _command(self, *parts: Argument) -> Any:
        client: Any = self._client
        return await client.execute_command(*parts)

    async def _run(
        self, name: str, keys: Sequence[str], args: Sequence[Argument], meter: Meter | None = None
    ) -> list[Any]:
        started = time.perf_counter()
        with tracer.start_as_current_span(f"valkey {name}", attributes=_HOP):
            answer: list[Any] = await self._scripts[name](self._client, keys, args)
        if meter:
            meter.valkey_ms += (time.perf_counter() - started) * 1000
            meter.bytes_sent += sum(len(key) for key in keys) + sum(_length(one) for one in args)
            meter.bytes_received += sum(_length(one) for one in answer)
        return answer

    async def list_sessions(self, tenant: str, after: str, count: int) -> list[str]:
        """Ids after `after` in ascending order."""
        low = f"({after}" if after else "-"
        names = await self._command("ZRANGE", tenant_index(tenant), low, "+", "BYLEX", "LIMIT", 0, count)
        return [name.decode() for name in names]

    async def metas(self, many: Sequence[Keys]) -> list[dict[str, bytes]]:
        """What lists show of sessions; empty for one that does not exist."""
        pipeline = self._client.pipeline(transaction=False)
        for keys in many:
            pipeline.hmget(keys.meta, _LISTED)
            pipeline.hlen(keys.summaries)
        answers = await pipeline.execute()
        rows = zip(answers[::2], answers[1::2], strict=True)
        return [
            {**dict(zip(_LISTED, values, strict=True)), "summaries": b"%d" % count} if values[0] else {}
            for values, count in rows
        ]

    async def snapshot(self, keys: Keys, first: int, count: int) -> Snapshot:
        """The session at this moment, with at most `count` headers of the log from sequence number `first` on."""
        meta, flat, open_turn = await self._run("read_session", [keys.meta, keys.log, keys.turns], [first, count])
        if not meta:
            raise NotFound(f"sessions/{keys.session}")
        rows = [Row(int(flat[i]), flat[i + 1], int(flat[i + 2])) for i in range(0, len(flat), 3)]
        return Snapshot(dict(zip(meta[::2], meta[1::2], strict=True)), rows, open_turn or b"")

    async def own(self, keys: Keys) -> bytes:
        """The session's own fields, as they are stored."""
        return await self._field(keys, "own")

    async def version(self, keys: Keys) -> bytes:
        """Which state the session is in: every write that a copy of it has to know of makes another one."""
        return await self._field(keys, "version")

    async def incarnation(self, keys: Keys) -> bytes:
        """Which session of this name it is."""
        return await self._field(keys, "incarnation")

    async def _field(self, keys: Keys, name: str) -> bytes:
        stored: bytes | None = await self._command("HGET", keys.meta, name)
        if stored is None:
            raise NotFound(f"sessions/{keys.session}")
        return stored

    async def turn_state(self, keys: Keys, turn: int) -> tuple[bytes, int, int]:
        """(Turn proto or empty, attempt or 0 if closed, ms left of the lease)."""
        answer = await self._run("turn_state", [keys.meta, keys.turns], [turn])
        if answer == [b"MISSING"]:
            raise NotFound(f"sessions/{keys.session}")
        return bytes(answer[0]), int(answer[1]), int(answer[2])

    async def turns(self, keys: Keys, numbers: Sequence[int]) -> list[bytes | None]:
        """Turn protos, as they are stored."""
        stored: list[bytes | None] = await self._command("HMGET", keys.turns, *numbers)
        return stored

    async def document(self, keys: Keys, document_id: str) -> document_pb2.Document | None:
        """The document as far as it is committed."""
        stored, place = await self._command("HMGET", keys.documents, document_id, f"{document_id}:place")
        return document_of(stored, place) if stored else None

    async def summary_bodies(self, keys: Keys, names: Sequence[str], meter: Meter | None = None) -> list[bytes | None]:
        """The stored summaries of these names."""
        if not names:
            return []
        started = time.perf_counter()
        bodies: list[bytes | None] = await self._command("HMGET", keys.summary_bodies, *names)
        if meter:
            meter.valkey_ms += (time.perf_counter() - started) * 1000
            meter.bytes_received += sum(len(body or b"") for body in bodies)
        return bodies

    async def rows(
        self, keys: Keys, first: int, last: int, count: int, with_bodies: bool, meter: Meter | None = None
    ) -> list[Row]:
        """At most `count` entries of the log in order; erased ones are not there."""
        args = [first, last, count, "1" if with_bodies else "0"]
        flat = await self._run("read_log", [keys.log], args, meter)
        return [Row(int(flat[i]), flat[i + 1], int(flat[i + 2]), flat[i + 3]) for i in range(0, len(flat), 4)]

    async def void(self, keys: Keys) -> AsyncIterator[bytes]:
        """Members of the void set; some may come twice."""
        async for page in self._scan("SSCAN", keys.void):
            for member in page:
                yield member

    async def counts(self, keys: Keys) -> AsyncIterator[tuple[bytes, bytes]]:
        """Sequence and value; some may come twice."""
        async for page in self._scan("HSCAN", keys.counts):
            for pair in page.items():
                yield pair

    async def summaries(self, keys: Keys) -> AsyncIterator[bytes]:
        """Headers; some may come twice."""
        async for page in self._scan("HSCAN", keys.summaries):
            for header in page.values():
                yield header

    async def _scan(self, command: str, key: str) -> AsyncIterator[Any]:
        cursor = 0
        while True:
            cursor, page = await self._command(command, key, cursor, "COUNT", _SCAN_COUNT)
            yield page
            if not cursor:
                return


def _length(value: Any) -> int:
    return len(value) if isinstance(value, bytes | str) else 8
