"""A primary and its replica: scripts and commands run whole, replication lags, nodes die.

What a node writes goes to its replica in order and late. WAIT counts replicas that have the connection's last write:
where its trip wrote nothing, any replica will do. A failover promotes the replica as it is: what it had not
received is lost, and the old primary comes back as its copy. Until then it may serve shards that have not heard of it
(`split`), as a real one does for as long as its node timeout.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Final

from redis.exceptions import NoScriptError

from tests.simulation.database import Database, Parts, Reply
from tests.simulation.loop import EPOCH_S
from tests.simulation.lua import scripts
from tests.simulation.trace import Trace

_ELECTION_S: Final = 0.2
_MOMENT_S: Final = 0.0001


@dataclass(frozen=True, slots=True)
class Source:
    """What runs when a script is asked for, which a test may have changed."""

    name: str
    text: str


def library(folder: Path, changed: Mapping[str, str]) -> dict[bytes, Source]:
    """The scripts of a folder by their digest; `changed` has other texts for some names."""
    return {sha: Source(one.name, changed.get(one.name, one.text)) for sha, one in _sources(folder).items()}


@lru_cache(maxsize=1)
def _sources(folder: Path) -> dict[bytes, Source]:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.lua"))}
    return {
        hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode(): Source(name, text)
        for name, text in texts.items()
    }


@dataclass(slots=True)
class Node:
    """One process of Valkey. `offset` counts the transactions that it has carried out."""

    name: str
    database: Database
    offset: int = 0
    is_up: bool = True
    known: set[bytes] = field(default_factory=set)


@dataclass(slots=True)
class Waiter:
    """A WAIT that has not returned."""

    node: Node
    offset: int
    answer: Callable[[int], None]


class Valkey:
    """A primary and, if `is_replicated`, one replica."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        random: Random,
        trace: Trace,
        library: Mapping[bytes, Source],
        *,
        is_replicated: bool,
    ) -> None:
        self._loop = loop
        self._random = random
        self._trace = trace
        self._library = library
        self.primary = self._node("a")
        self.replica: Node | None = self._node("b") if is_replicated else None
        self._lagging: deque[tuple[int, list[list[bytes]]]] = deque()
        self._is_stalled = False
        self._waiters: list[Waiter] = []
        self.generation = 0

    def _node(self, name: str) -> Node:
        return Node(name, Database(lambda: int((EPOCH_S + self._loop.time()) * 1e6)))

    def run(self, node: Node, parts: Parts, who: str) -> tuple[Reply, bool]:
        """Carries out one command on a node; also says whether it wrote."""
        effects: list[list[bytes]] = []

        def execute(command: list[bytes]) -> Reply:
            before = node.database.changes
            reply = node.database.execute(command)
            if node.database.changes > before:
                effects.append(command)
            return reply

        try:
            if parts[0] in (b"EVALSHA", b"EVAL"):
                return self._script(node, parts, execute, who), bool(effects)
            return execute(list(parts)), bool(effects)
        finally:
            if effects:
                node.offset += 1
                self._replicate(node, effects)

    def _script(self, node: Node, parts: Parts, execute: Callable[[list[bytes]], Reply], who: str) -> Reply:
        if parts[0] == b"EVAL":
            sha = hashlib.sha1(parts[1], usedforsecurity=False).hexdigest().encode()
            node.known.add(sha)
        else:
            sha = parts[1]
        if sha not in node.known:
            raise NoScriptError("NOSCRIPT No matching script.")
        source = self._library[sha]
        count = int(parts[2])
        reply = scripts().run(source.text, parts[3 : 3 + count], parts[3 + count :], execute)
        self._trace.note(f"valkey {node.name}", f"{who} {source.name}", _outcome(reply))
        return reply

    def _replicate(self, node: Node, effects: list[list[bytes]]) -> None:
        if node is not self.primary or self.replica is None:
            return
        self._lagging.append((node.offset, effects))
        lag_s = self._random.uniform(0.0001, 0.002) if self._random.random() < 0.9 else self._random.uniform(0.0, 0.1)
        self._loop.call_later(lag_s, self._deliver, self.generation, node.offset)

    def _deliver(self, generation: int, offset: int) -> None:
        if generation != self.generation or self._is_stalled or not self.replica or not self.replica.is_up:
            return
        while self._lagging and self._lagging[0][0] <= offset:
            self.replica.offset, effects = self._lagging.popleft()
            for command in effects:
                self.replica.database.execute(command)
        self._tell_waiters()

    def wait(self, node: Node, offset: int, timeout_s: float, answer: Callable[[int], None]) -> None:
        """Calls `answer` with how many replicas have `offset`, after `timeout_s` at the latest; -1 if the node dies."""
        waiter = Waiter(node, offset, answer)
        self._waiters.append(waiter)
        self._loop.call_later(timeout_s, self._give_up, waiter)
        self._tell_waiters()

    def _replicas_at(self, node: Node, offset: int) -> int:
        is_ours = node is self.primary and self.replica is not None and self.replica.is_up
        return int(is_ours and self.replica is not None and self.replica.offset >= offset)

    def _tell_waiters(self) -> None:
        done = [one for one in self._waiters if self._replicas_at(one.node, one.offset)]
        for waiter in done:
            self._waiters.remove(waiter)
            waiter.answer(self._replicas_at(waiter.node, waiter.offset))

    def _give_up(self, waiter: Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            waiter.answer(self._replicas_at(waiter.node, waiter.offset))

    def restart(self, away_s: float) -> None:
        """Kills the primary, which comes back with its data: it writes its log before it answers."""
        node = self.primary
        self._trace.note("fault", "restart of primary", node.name)
        node.is_up = False
        self._drop_waiters(node)

        def back() -> None:
            node.is_up = True
            node.known.clear()

        self._loop.call_later(away_s, back)

    def stall(self, stall_s: float) -> None:
        """Holds the replica back."""
        self._trace.note("fault", "stalled replica", f"{stall_s:.3f} s")
        self._is_stalled = True
        # A moment later, so that a failover at the end of it finds what the replica still lacks.
        self._loop.call_later(stall_s + _MOMENT_S, self._resume)

    def _resume(self) -> None:
        self._is_stalled = False
        if self._lagging:
            self._deliver(self.generation, self._lagging[-1][0])

    def fail_over(self, away_s: float, split_s: float) -> None:
        """Promotes the replica; the old primary is away, or serves who has not heard, until it comes back as a copy."""
        if self.replica is None or not self.replica.is_up:
            return
        old, self.primary, self.replica = self.primary, self.replica, None
        self._trace.note("fault", "failover", f"{old.name} to {self.primary.name}, {len(self._lagging)} writes lost")
        self.generation += 1
        self._lagging.clear()
        self._is_stalled = False
        self.primary.is_up = False
        self._drop_waiters(old)
        if split_s <= 0:
            old.is_up = False
        else:
            self._loop.call_later(split_s, setattr, old, "is_up", False)
        self._loop.call_later(_ELECTION_S, setattr, self.primary, "is_up", True)
        self._loop.call_later(_ELECTION_S + split_s + away_s, self._rejoin, old, self.generation)

    def _rejoin(self, node: Node, generation: int) -> None:
        if generation != self.generation:
            return
        node.database.copy_of(self.primary.database)
        node.offset = self.primary.offset
        node.is_up = True
        node.known.clear()
        self.replica = node
        self._trace.note("fault", "replica is back", node.name)

    def _drop_waiters(self, node: Node) -> None:
        for waiter in [one for one in self._waiters if one.node is node]:
            self._waiters.remove(waiter)
            waiter.answer(-1)


def _outcome(reply: Reply) -> str:
    first = reply[0] if isinstance(reply, list) and reply else reply
    return first.decode(errors="replace") if isinstance(first, bytes) and len(first) < 16 else ""
