"""`python -m context_store.bench`: a shard measured from within, without gRPC, for `isthmus bench store`.

    python -m context_store.bench appends --tenant bench --appends 400 --rounds 7 --bytes 2048
    python -m context_store.bench loads --tenant bench --sessions a,b --loads 5
    python -m context_store.bench freeze --tenant bench --sessions a,b

Each line on stdout is one JSON object: `{"done": 1, "total": 7}` as it goes on, `{"figures": …}` at the end. The
settings come from the file that ISTHMUS_CONFIG names. What it appends stays: who gave the tenant deletes it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import grpc
import uvloop
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import context_service_pb2_grpc
from isthmus.session.v1 import message_pb2

from context_store.hot.loading import Loader
from context_store.log.keys import PREFIX, Keys
from context_store.log.stored import Entry
from context_store.room import ContextStoreRoom
from context_store.session.fragment_service import FragmentService
from context_store.store import Store, entries, now
from services import valkey
from services.cli.bench.statistics import percentile
from services.cli.bench.text import text
from services.config import Settings, load_settings
from services.lifecycle import RoomContext
from services.rpc import redirects
from services.valkey.client import together

_MEMBER: Final = "bench"
IN_FLIGHT: Final = (1, 16, 64)
_WARM_UP_APPENDS: Final = 64
_REQUEST_DIGEST: Final = bytes(16)

# Does one append to the session of that number.
_Append = Callable[[int], Awaitable[None]]


@dataclass(slots=True)
class _Samples:
    """What one way of appending took at one level: appends a second by round, and milliseconds by append."""

    per_s: list[float]
    ms: list[float]


class _Ours:
    """The store's own path: cut, digest, pack, script, hot copy, acknowledgement."""

    def __init__(self, store: Store, tenant: str, body: str) -> None:
        self._tenant = tenant
        self._fragments = FragmentService(store)
        self._message = message_pb2.Message(role=message_pb2.ROLE_USER, text=body)

    async def __call__(self, number: int) -> None:
        request = api.AppendMessagesRequest(
            key=api.SessionKey(tenant=self._tenant, session=_session(number)),
            messages=[self._message],
            request_id=secrets.token_hex(8),
            body_digest=_REQUEST_DIGEST,
        )
        await self._fragments.append(request)


class _Raw:
    """Valkey without a store: one pipeline an append, of what the script writes, on one connection."""

    def __init__(self, client: valkey.Client, settings: Settings, tenant: str, entry: Entry) -> None:
        self._client = client
        self._tenant = tenant
        self._entry = entry
        self._sequences = [0] * max(IN_FLIGHT)
        wanted = settings.valkey.replicas_ack_count
        replicas = wanted if wanted is not None else int(valkey.is_cluster(client))
        self._replicas = replicas
        self._wait = [("WAIT", replicas, settings.valkey.replica_wait_ms_max)] if replicas else []

    async def __call__(self, number: int) -> None:
        self._sequences[number] += 1
        sequence, entry = self._sequences[number], self._entry
        place = self._place(number)
        meta = ("revision", sequence, "version", secrets.token_bytes(8), "touched_ms", _clock_ms())
        commands = [
            ("XADD", f"{place}:log", f"{sequence}-0", "f", entry.header, "b", entry.body, "n", entry.size),
            ("HSET", f"{place}:requests", secrets.token_hex(8), _REQUEST_DIGEST + b"A%d-%d" % (sequence, sequence)),
            ("HSET", f"{place}:meta", *meta),
        ]
        answers = await together(self._client, [*commands, *self._wait])
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        if self._wait and answers[-1] < self._replicas:
            raise RuntimeError(f"WAIT: {answers[-1]} of {self._replicas} replicas hold the append")

    async def clear(self) -> None:
        """Deletes what was written."""
        for number in range(max(IN_FLIGHT)):
            place = self._place(number)
            await valkey.command(self._client, "UNLINK", f"{place}:log", f"{place}:requests", f"{place}:meta")

    def _place(self, number: int) -> str:
        return f"{PREFIX}{{{self._tenant}/raw-{number}}}"


async def measure_appends(settings: Settings, tenant: str, rounds: int, appends: int, size: int) -> dict[str, Any]:
    """Appends a second, through the store and without it, at each level of `IN_FLIGHT`.

    The two take turns in short rounds, so that noise on the machine hits both alike; medians are compared.
    """
    body = text(size, seed=1).encode()[:size].decode()
    async with _shard(settings) as room, aclosing(valkey.connect(settings.valkey)) as client:
        await _create(room.address, tenant)
        store = _parts(room)
        message = message_pb2.Message(role=message_pb2.ROLE_USER, text=body)
        (entry,) = entries(store.drafts([message], 0), now())
        raw = _Raw(client, settings, tenant, entry)
        try:
            levels = await _levels({"valkey": raw, "append": _Ours(store, tenant, body)}, rounds, appends)
        finally:
            await raw.clear()
    return {"levels": levels, "append_ratio_to_valkey": min(level["ratio"] for level in levels)}


async def _levels(ways: dict[str, _Append], rounds: int, appends: int) -> list[dict[str, Any]]:
    for way in ways.values():
        await _round(way, max(IN_FLIGHT), _WARM_UP_APPENDS, [])
    levels = []
    for position, in_flight in enumerate(IN_FLIGHT):
        samples = {name: _Samples([], []) for name in ways}
        for number in range(rounds):
            _print({"done": position * rounds + number, "total": rounds * len(IN_FLIGHT)})
            for name, way in ways.items():
                samples[name].per_s.append(await _round(way, in_flight, appends, samples[name].ms))
        levels.append(_level(in_flight, samples))
    return levels


async def measure_loads(settings: Settings, keys: Sequence[Keys], loads: int) -> list[dict[str, Any]]:
    """How long each session takes from Valkey into memory, at the median, and what it takes there."""
    found = []
    async with _shard(settings) as room:
        store = _parts(room)
        loader = Loader(store.log, settings.store)
        for number, each in enumerate(keys):
            _print({"done": number, "total": len(keys)})
            times = []
            for _ in range(loads):
                started = time.perf_counter()
                await loader.load(each)
                times.append((time.perf_counter() - started) * 1_000)
            tracemalloc.start()
            copy = await loader.load(each)
            taken_bytes, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            found.append({"session": copy.session, "ms": round(median(times), 3), "bytes": taken_bytes})
            del copy
    return found


async def freeze(settings: Settings, keys: Sequence[Keys]) -> list[dict[str, Any]]:
    """Makes each session cold, and says how long that took."""
    found = []
    async with _shard(settings) as room:
        store = _parts(room)
        freezer = store.tiers.freezer(Loader(store.log, settings.store).load)
        for each in keys:
            started = time.perf_counter()
            reply = await freezer.freeze(each, 0)
            ms = (time.perf_counter() - started) * 1_000
            found.append({"session": each.session, "outcome": reply.outcome, "ms": round(ms, 3)})
    return found


@asynccontextmanager
async def _shard(settings: Settings) -> AsyncIterator[ContextStoreRoom]:
    """A whole shard in this process, whose parts are called here and not over gRPC."""
    room = ContextStoreRoom(RoomContext(settings, _MEMBER, "127.0.0.1:0"))
    try:
        await room.start()
        # Whatever the ring says, what is measured here is served here.
        redirects.enter(redirects.METADATA)
        yield room
    finally:
        await room.stop()


def _parts(room: ContextStoreRoom) -> Store:
    assert room.store is not None, "a room that has started has its parts"
    return room.store


async def _create(address: str, tenant: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = context_service_pb2_grpc.ContextServiceStub(channel)
        for number in range(max(IN_FLIGHT)):
            request = api.CreateSessionRequest(tenant=tenant, session_id=_session(number))
            await stub.CreateSession(request, metadata=redirects.METADATA)


async def _round(append: _Append, in_flight: int, appends: int, ms: list[float]) -> float:
    """Appends a second, so many in flight, each to a session of its own; adds each one's milliseconds."""

    async def worker(number: int) -> None:
        for _ in range(max(1, appends // in_flight)):
            started = time.perf_counter()
            await append(number)
            ms.append((time.perf_counter() - started) * 1_000)

    before, started = len(ms), time.perf_counter()
    await asyncio.gather(*(worker(number) for number in range(in_flight)))
    return (len(ms) - before) / (time.perf_counter() - started)


def _level(in_flight: int, samples: dict[str, _Samples]) -> dict[str, Any]:
    level: dict[str, Any] = {"in_flight": in_flight}
    for name, each in samples.items():
        level[f"{name}_per_s"] = round(median(each.per_s), 1)
        level[f"{name}_ms_p50"] = round(percentile(each.ms, 0.5), 3)
        level[f"{name}_ms_p99"] = round(percentile(each.ms, 0.99), 3)
    level["ratio"] = round(median(samples["append"].per_s) / median(samples["valkey"].per_s), 3)
    return level


def _session(number: int) -> str:
    return f"append-{number}"


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _print(line: Any) -> None:
    print(json.dumps(line), flush=True)


def main() -> int:
    """Returns the exit code."""
    arguments = _parse()
    settings = load_settings()
    if arguments.what == "appends":
        sizes = (arguments.rounds, arguments.appends, arguments.bytes)
        figures: object = uvloop.run(measure_appends(settings, arguments.tenant, *sizes))
    else:
        keys = [Keys(arguments.tenant, session) for session in arguments.sessions.split(",")]
        work = measure_loads(settings, keys, arguments.loads) if arguments.what == "loads" else freeze(settings, keys)
        figures = uvloop.run(work)
    _print({"figures": figures})
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    appends, loads, cold = (what.add_parser(name) for name in ("appends", "loads", "freeze"))
    for each in (appends, loads, cold):
        each.add_argument("--tenant", required=True)
    for flag, default in (("--rounds", 7), ("--appends", 400), ("--bytes", 2_048)):
        appends.add_argument(flag, type=int, default=default)
    for each in (loads, cold):
        each.add_argument("--sessions", required=True)
    loads.add_argument("--loads", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
