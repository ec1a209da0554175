"""A turn costs its delta: one trip to Valkey to open, one to commit, and a plan that does not grow with the past."""

from __future__ import annotations

import time
from typing import Any

import pytest
from isthmus.session.v1 import fragment_pb2, message_pb2, session_pb2, turn_pb2

from context_store.hot.history import History
from context_store.hot.hot_session import HotSession
from context_store.log.fragments import Origin, drafts
from context_store.log.reads import LogReads
from context_store.window.epoch import Marks
from context_store.window.segments import Segments
from tests.context_store.client import StoreClient

ROOM = 1 << 40


async def test_a_hot_turn_takes_one_trip_to_open_and_one_to_commit(
    store: StoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create()
    await store.write("d", b"Many words. " * 10_000)
    await store.turn("warm", "hello", reply="hi " * 5_000)
    trips: list[str] = []
    run, command = LogReads._warm, LogReads._command

    async def counted_run(self: LogReads, name: str, *args: Any, **options: Any) -> Any:
        trips.append(name)
        return await run(self, name, *args, **options)

    async def counted_command(self: LogReads, *parts: Any) -> Any:
        trips.append(str(parts[0]))
        return await command(self, *parts)

    monkeypatch.setattr(LogReads, "_warm", counted_run)
    monkeypatch.setattr(LogReads, "_command", counted_command)
    for number in range(3):
        opened = await store.open(f"question {number}", request_id=f"r{number}")
        assert opened.manifest.new_items
        assert opened.timing.valkey_ms > 0
        await store.commit(opened, f"answer {number}", counts=[(opened.turn.first_input_sequence, 4)])
    assert trips == ["open_turn", "commit_turn"] * 3


def session_behind(fragments: int) -> HotSession:
    history = History()
    for number in range(fragments):
        history.append(number.to_bytes(16, "big"), 4_000)
    hot = HotSession("acme", "s1", b"i", b"v", session_pb2.Session(), Marks(0.5, 0.5), history, Segments(4_096))
    hot.settle()
    return hot


def plan_seconds(hot: HotSession) -> float:
    """The least time that one turn's planning takes of twenty."""
    origin = Origin(fragment_pb2.FRAGMENT_KIND_MESSAGE, message_pb2.ROLE_USER)
    least = 1.0
    for _ in range(20):
        started = time.perf_counter()
        parts = drafts("question", origin, 8_192)
        first = hot.history.revision + 1
        plan = hot.plan(parts, ROOM)
        turn = turn_pb2.Turn(number=hot.turn_count + 1, first_input_sequence=first, last_input_sequence=first)
        hot.opened(turn, parts, plan.base)
        hot.window.digest(hot.window.count_to(first))
        hot.window.tally(hot.window.count_to(first))
        hot.done(turn, drafts("answer", origin, 8_192))
        least = min(least, time.perf_counter() - started)
    return least


def test_planning_costs_the_same_behind_two_fragments_and_fifty_thousand() -> None:
    assert plan_seconds(session_behind(50_000)) < 5 * plan_seconds(session_behind(2))
