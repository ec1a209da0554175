"""One run: a plan carried out on simulated machines, then everything healed, settled and checked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random

from google.protobuf.message import Message
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import window_pb2
from isthmus.session.v1 import session_pb2, turn_pb2

from context_store.hot.hot_session import HotSession
from context_store.hot.loading import Loader
from context_store.log.keys import Keys
from services.config import ValkeySettings
from services.errors import IsthmusError
from tests.simulation import checker, stored
from tests.simulation.bucket import Bucket
from tests.simulation.caller import TENANT, Caller, StuckError
from tests.simulation.clients import Client
from tests.simulation.history import History
from tests.simulation.link import Link
from tests.simulation.loop import VirtualLoop, determined
from tests.simulation.mutants import SCRIPTS, Mutant
from tests.simulation.network import Network
from tests.simulation.plan import Fault, Harm, Kind, Plan, child_of, is_child
from tests.simulation.shard import SETTINGS, Ring, Shard
from tests.simulation.trace import Trace
from tests.simulation.valkey import Valkey, library

# Keys that are of no session.
_INDEXES = (f"isthmus:sessions:{TENANT}".encode(), b"isthmus:touched:", b"isthmus:due:")
_WAIT_MS_MAX = 200
# What of a copy rests on counts and summaries.
_LEARNT = ("tokens", "window's tokens", "summaries")
# Longer than a deletion that broke off is left alone.
_SETTLING_S = 11.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. No violations is what it should."""

    plan: Plan
    violations: tuple[str, ...]
    trace: Trace
    acknowledged_count: int


def run(plan: Plan, mutant: Mutant | None = None) -> Outcome:
    """Carries out a plan, on a store that a mutant has broken if there is one."""
    loop = VirtualLoop()
    with ExitStack() as stack:
        stack.enter_context(determined(loop, Random(f"{plan.seed} tokens")))
        if mutant:
            stack.enter_context(mutant.applied())
        try:
            return loop.run_until_complete(_World(plan, loop, mutant.texts() if mutant else {}).run())
        finally:
            loop.finish()


class _World:
    """The machines of one run."""

    def __init__(self, plan: Plan, loop: VirtualLoop, changed: Mapping[str, str]) -> None:
        self._plan = plan
        self._loop = loop
        self._random = Random(f"{plan.seed} machines")
        self._trace = Trace(loop)
        self._history = History()
        scripts = library(SCRIPTS, changed)
        self._valkey = Valkey(loop, self._random, self._trace, scripts, is_replicated=plan.is_replicated)
        self._settings = ValkeySettings(
            replicas_ack_count=int(plan.is_replicated), replica_wait_ms_max=_WAIT_MS_MAX, disk_wait_ms_max=_WAIT_MS_MAX
        )
        self._loss = 0.0
        self._bucket = Bucket(self._random, self._trace)

    async def run(self) -> Outcome:
        names = [f"shard-{number}" for number in range(self._plan.shards_count)]
        shards = [self._shard(name, Ring(names)) for name in names]
        network = Network(shards, self._random, self._trace, 0.0, 0.0)
        await self._create(network)
        network.loss, network.repeats, self._loss = self._plan.loss, self._plan.repeats, self._plan.loss
        self._bucket.loss = self._plan.loss
        for shard in shards:
            shard.link.loss = self._loss
        for fault in self._plan.faults:
            self._loop.call_later(fault.at_s, self._befall, fault, shards)
        clients = [Client(Caller(self._plan, network, self._history)) for _ in self._plan.clients]
        ended = await asyncio.gather(
            *(client.run(ops) for client, ops in zip(clients, self._plan.clients, strict=True)), return_exceptions=True
        )
        for error in ended:
            if isinstance(error, StuckError):
                self._history.violate(str(error))
            elif error is not None:
                raise error
        await self._heal(network, shards)
        self._trace.end()
        for session in self._seen():
            try:
                # Warm, if it was not.
                await shards[0].store.read(Keys(TENANT, session))
            except IsthmusError as error:
                self._history.violate(f"{session} cannot be read back: {error}")
                return self._outcome()
        for session in self._sessions():
            await self._check(session, shards)
        return self._outcome()

    def _outcome(self) -> Outcome:
        return Outcome(self._plan, tuple(self._history.violations), self._trace, len(self._history.answered))

    def _sessions(self) -> list[str]:
        ops = [op for ops in self._plan.clients for op in ops]
        return sorted({op.session for op in ops} | {child_of(op) for op in ops if op.kind is Kind.FORK})

    def _shard(self, name: str, ring: Ring) -> Shard:
        return Shard(
            name, ring, self._link, self._settings, self._bucket, self._trace, self._history.violate, self._opened
        )

    def _link(self, who: str) -> Link:
        return Link(self._valkey, who, self._random, self._loss)

    async def _create(self, network: Network) -> None:
        for session in self._sessions():
            if is_child(session):
                continue
            request = api.CreateSessionRequest(tenant=TENANT, session_id=session)
            await network.settled("world", "CreateSession", request, session_pb2.Session, 10)

    def _befall(self, fault: Fault, shards: list[Shard]) -> None:
        shard = shards[fault.target % len(shards)]
        match fault.harm:
            case Harm.CRASH_SHARD if shard.is_up:
                shard.crash()
                self._loop.call_later(fault.seconds, shard.start)
            case Harm.CUT_LINK:
                self._trace.note("fault", "cut off", shard.name)
                shard.link.is_cut = True
                self._loop.call_later(fault.seconds, setattr, shard.link, "is_cut", False)
            case Harm.FAIL_OVER:
                self._valkey.stall(fault.lag_s)
                self._loop.call_later(fault.lag_s, self._valkey.fail_over, fault.seconds, fault.split_s)
            case Harm.RESTART:
                self._valkey.restart(fault.seconds)
            case Harm.MOVE_RING:
                self._trace.note("fault", "another view", shard.name)
                shard.ring.view += 1
            case Harm.STALL_REPLICA:
                self._valkey.stall(fault.seconds)

    async def _heal(self, network: Network, shards: list[Shard]) -> None:
        """No more losses, and time for what is late to arrive."""
        network.loss = network.repeats = self._loss = self._bucket.loss = 0.0
        for shard in shards:
            shard.link.loss = 0.0
        await asyncio.sleep(_SETTLING_S)
        if self._plan.seed % 2:
            # In the other half of all runs the copies are looked at as they have grown.
            await shards[0].round()
        await asyncio.sleep(_SETTLING_S)
        await shards[-1].cleaned()
        self._owners()

    def _owners(self) -> None:
        """No key and no object is left that is nobody's."""
        values, sessions = self._valkey.primary.database.values, self._sessions()
        prefixes = tuple(f"isthmus:{{{TENANT}/{session}}}:".encode() for session in self._seen())
        strays = [key for key in values if not key.startswith((*prefixes, *_INDEXES))]
        if strays:
            self._history.violate(f"keys without an owner: {strays}")
        database = self._valkey.primary.database
        cold = {stored.cold(database, TENANT, session) for session in sessions} - {""}
        unlisted = [session for session in sessions if session in self._seen() and not self._is_listed(session)]
        if unlisted:
            self._history.violate(f"no list shows {unlisted}")
        if cold != set(self._bucket.objects):
            self._history.violate(f"there are the objects {sorted(self._bucket.objects)}, sessions are {sorted(cold)}")

    def _seen(self) -> list[str]:
        """The sessions that there are, warm or cold."""
        database = self._valkey.primary.database
        return [session for session in self._sessions() if stored.is_there(database, TENANT, session)]

    def _is_listed(self, session: str) -> bool:
        index = self._valkey.primary.database.values.get(f"isthmus:sessions:{TENANT}".encode())
        return index is not None and session.encode() in index

    def _loses_primaries(self) -> bool:
        return any(fault.harm is Harm.FAIL_OVER for fault in self._plan.faults)

    def _opened(self, keys: Keys, turn: turn_pb2.Turn, manifest: Message) -> None:
        """A window that a driver is told of is the one that the log makes at this moment."""
        assert isinstance(manifest, window_pb2.Manifest)
        there = stored.read(self._valkey.primary.database, keys.tenant, keys.session)
        now = there.turns.get(turn.number) if there else None
        is_now = now and now.create_time == turn.create_time and now.state == turn_pb2.Turn.STATE_OPEN
        if not there or there.is_fork or not is_now:
            return
        epoch, count, digest = there.window(turn.last_input_sequence)
        told = (manifest.epoch, manifest.end.item_count, manifest.end.digest)
        if epoch == manifest.epoch and told != (epoch, count, digest):
            self._history.violate(
                f"{keys.session}: turn {turn.number} was opened with a window of {told[1]} items"
                f" {told[2].hex()}, the log makes {count} items {digest.hex()}"
            )

    async def _check(self, session: str, shards: list[Shard]) -> None:
        there = stored.read(self._valkey.primary.database, TENANT, session)
        if there is None:
            if not self._history.may_be_gone(session):
                self._history.violate(f"{session}: it is gone")
            return
        own = session_pb2.Session.FromString(there.meta[b"own"])
        if (session, own.etag) in self._history.deleted:
            self._history.violate(f"{session}: it is there again after it was deleted")
        is_lease_safe = not self._loses_primaries()
        self._history.violations += checker.violations(session, there, self._history, is_lease_safe=is_lease_safe)
        keys = Keys(TENANT, session)
        loaded = _shape(await Loader(shards[0].store.log, SETTINGS).load(keys))
        for shard in shards:
            hot = await shard.store.read(keys)
            # A fork is not told of what its ancestors learn of the past that they share.
            shape = {name: value for name, value in _shape(hot).items() if not there.is_fork or name not in _LEARNT}
            if not _agrees(hot, there, stored.past(self._valkey.primary.database, TENANT, there)):
                self._history.violate(f"{session}: the window of {shard.name} is not what the log makes")
            for name, value in shape.items():
                if value != loaded[name]:
                    self._history.violate(f"{session}: {name} is {value} at {shard.name} and {loaded[name]} in the log")


def _agrees(hot: HotSession, there: stored.Stored, past: Mapping[int, stored.Piece]) -> bool:
    """Whether a copy is what the log makes. Where a fork has lost some of its past, its window begins anew."""
    window, shared = hot.window, range(1, there.shared + 1)
    if not there.is_fork:
        return (window.base.epoch, len(window), window.digest(len(window))) == there.window(there.revision)
    shown = {one: hot.history.digest(one) for one in shared if not hot.history.is_void(one)}
    return shown == {sequence: piece.digest for sequence, piece in past.items()}


def _shape(hot: HotSession) -> dict[str, object]:
    """What a copy brought up bit by bit has to have in common with one loaded whole."""
    window, history = hot.window, hot.history
    return {
        "window": (window.base.epoch, len(window), window.digest(len(window)).hex()),
        "version": hot.version.hex(),
        "tokens": hot.tokens(),
        "window's tokens": window.tally(len(window)).tokens(hot.scale),
        "text": history.text_bytes,
        "prefix": hot.prefix_count(),
        "open turn": hot.open.number if hot.open else 0,
        "summaries": sorted(hot.summaries),
        "segments": [hot.segments[index] for index in range(len(hot.segments))],
    }
