"""Who is there: members announce themselves in Valkey by heartbeat, everyone else watches.

`isthmus:{members}:<room>` is a hash of member id -> JSON. All rooms share a hash slot: in a cluster, too, the clock of
one node stamps every heartbeat and decides who lives, so that no two machines' clocks are compared.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from services.config import MembershipSettings
from services.lifecycle import Lifecycle, State
from services.long_task import LongTask
from services.valkey import Client, Script, command

ROOMS: Final = ("gateway", "context_store", "inference", "compressor")

_SCRIPTS: Final = Path(__file__).parent / "scripts"
_ANNOUNCE: Final = Script(_SCRIPTS / "announce.lua")
_MEMBERS: Final = Script(_SCRIPTS / "members.lua")
# A look at the members that comes so many intervals after the last one has waited for Valkey, as the heartbeats have.
_LATE_INTERVALS: Final = 2.0
_log = structlog.get_logger("membership")


def members_key(room: str) -> str:
    """The key of a room's members."""
    return f"isthmus:{{members}}:{room}"


def advertised(address: str, settings: MembershipSettings) -> str:
    """Where others reach a server that listens on `address`: at `advertise`, on its port or else on the server's."""
    if settings.advertise is None:
        return address
    host, _, port = settings.advertise.rpartition(":")
    if port.isdecimal() and (host.endswith("]") or (host and ":" not in host)):
        return settings.advertise
    name = settings.advertise
    is_bare_ipv6 = ":" in name and not name.startswith("[")
    return f"{f'[{name}]' if is_bare_ipv6 else name}:{address.rpartition(':')[2]}"


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the mesh as it announced itself. `endpoint` is the `host:port` of its gRPC server."""

    id: str
    room: str
    endpoint: str
    state: State = State.STARTING
    weight: float = 1.0
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    # Valkey's time of the last heartbeat: two views of one member differ in it without being a change.
    heartbeat_ms: int = field(default=0, compare=False)
    # Requests that it had in work then, where it counts them: no change either.
    load: int = field(default=0, compare=False)


class Announcer:
    """Announces one member by heartbeat for as long as it runs, and at once whenever its lifecycle moves.

    Each heartbeat says what `load` answers. While Valkey is away it goes on trying; `stop` takes the member off the
    list.
    """

    def __init__(
        self,
        valkey: Client,
        settings: MembershipSettings,
        member: Member,
        lifecycle: Lifecycle,
        load: Callable[[], int] = int,
    ) -> None:
        self._valkey = valkey
        self._settings = settings
        self._member = member
        self._lifecycle = lifecycle
        self._load = load
        self._moved = asyncio.Event()
        self._task = LongTask()
        lifecycle.watch(lambda _: self._moved.set())

    async def start(self) -> None:
        """Begins to announce. Does not wait for Valkey."""
        self._task.start(self._run(), f"announce {self._member.id}")

    async def stop(self) -> None:
        """Ends the heartbeat and removes the member, if Valkey can be reached; else its heartbeat runs out."""
        if not await self._task.stop():
            return
        try:
            async with asyncio.timeout(self._settings.member_ttl_ms / 1000):
                await command(self._valkey, "HDEL", members_key(self._member.room), self._member.id)
        except (RedisError, TimeoutError) as error:
            _log.warning("member not removed", error=str(error))

    async def _run(self) -> None:
        silent = False
        while True:
            self._moved.clear()
            try:
                await self._announce()
                silent = False
            except RedisError as error:
                # Once, not with every heartbeat.
                if not silent:
                    _log.warning("heartbeat failed", error=str(error))
                silent = True
            try:
                async with asyncio.timeout(self._settings.heartbeat_interval_ms / 1000):
                    await self._moved.wait()
            except TimeoutError:
                continue

    async def _announce(self) -> None:
        payload = {
            "endpoint": advertised(self._member.endpoint, self._settings),
            "state": self._lifecycle.state.value,
            "weight": self._member.weight,
            "labels": dict(self._member.labels),
            "load": self._load(),
        }
        await _ANNOUNCE(
            self._valkey,
            keys=[members_key(self._member.room)],
            args=[self._member.id, json.dumps(payload), self._settings.member_ttl_ms],
        )


class View:
    """The members of the mesh as last seen, kept up by a task of its own: reading it never waits.

    While Valkey is away the last view stands. When Valkey is back, a member that has not announced itself again yet is
    kept for one `member_ttl_ms`, so that neither a restart nor a failover of Valkey empties a ring.
    """

    def __init__(self, valkey: Client, settings: MembershipSettings, rooms: Iterable[str] = ROOMS) -> None:
        self._valkey = valkey
        self._settings = settings
        self._members: dict[str, tuple[Member, ...]] = dict.fromkeys(rooms, ())
        self._versions = dict.fromkeys(self._members, 0)
        self._changed = asyncio.Event()
        self._seen_at: float | None = None
        self._kept_until = 0.0
        self._away = False
        self._task = LongTask()

    async def start(self) -> None:
        """Takes a first view, if Valkey can be reached, and keeps it up from then on."""
        await self._poll()
        self._task.start(self._run(), "view members")

    async def stop(self) -> None:
        """Ends the task; the last view stands."""
        await self._task.stop()

    @property
    def away(self) -> bool:
        """Whether Valkey could not be reached the last time, so that the view may be old."""
        return self._away

    def members(self, room: str) -> tuple[Member, ...]:
        """The living members of a room, in whatever state, by id."""
        return self._members[room]

    def ready(self, room: str) -> tuple[Member, ...]:
        """Those members of a room that take new work."""
        return tuple(member for member in self._members[room] if member.state is State.READY)

    def version(self, room: str) -> int:
        """Rises with every change of a room's members; heartbeats are no change."""
        return self._versions[room]

    async def wait_for(self, room: str, count: int = 1) -> tuple[Member, ...]:
        """Waits until a room has this many READY members and returns them. Bounded by the caller's timeout."""
        while len(members := self.ready(room)) < count:
            await self._changed.wait()
        return members

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat_interval_ms / 1000)
            await self._poll()

    async def _poll(self) -> None:
        rooms = tuple(self._members)
        try:
            seconds, micros, *hashes = await _MEMBERS(self._valkey, [members_key(room) for room in rooms])
        except RedisError as error:
            if not self._away:
                _log.warning("members not seen, the last view stands", error=str(error))
            self._away = True
            return
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        keep = self._keeps()
        for room, flat in zip(rooms, hashes, strict=True):
            entries = dict(zip(flat[::2], flat[1::2], strict=True))
            self._see(room, _living(room, entries, now_ms - self._settings.member_ttl_ms), keep)

    def _keeps(self) -> bool:
        """Whether Valkey came back less than a member's time to live ago."""
        now = asyncio.get_running_loop().time()
        late_s = _LATE_INTERVALS * self._settings.heartbeat_interval_ms / 1000
        if self._away or (self._seen_at is not None and now - self._seen_at > late_s):
            self._kept_until = now + self._settings.member_ttl_ms / 1000
        self._away = False
        self._seen_at = now
        return now < self._kept_until

    def _see(self, room: str, living: dict[str, Member], keep: bool) -> None:
        if keep:
            living = {member.id: member for member in self._members[room]} | living
        seen = tuple(living[member_id] for member_id in sorted(living))
        changed = seen != self._members[room]
        self._members[room] = seen
        if changed:
            self._versions[room] += 1
            self._changed.set()
            self._changed = asyncio.Event()


def _living(room: str, entries: Mapping[bytes, bytes], since_ms: int) -> dict[str, Member]:
    parsed = (_parse(name, room, payload) for name, payload in entries.items())
    return {member.id: member for member in parsed if member is not None and member.heartbeat_ms >= since_ms}


def _parse(name: bytes, room: str, payload: bytes) -> Member | None:
    """The member, or None for what no version of ours has written: a stranger's entry must not end the view."""
    try:
        values: dict[str, Any] = json.loads(payload)
        return Member(
            id=name.decode(),
            room=room,
            endpoint=str(values["endpoint"]),
            state=State(values["state"]),
            weight=float(values["weight"]),
            labels=MappingProxyType(values["labels"]),
            heartbeat_ms=int(values["heartbeat_ms"]),
            # Other releases' members say none.
            load=int(values.get("load", 0)),
        )
    except (ValueError, KeyError, TypeError):
        return None
