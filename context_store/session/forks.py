"""Forks: sessions that begin as another one was after a turn, by reference to its log. No text is copied or read.

A fork is noted with the sessions whose past it shares before it is made. A crash in between leaves a note that nothing
is behind; it is passed over, and taken away by whoever comes across it.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Final

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_pb2, turn_pb2

from context_store.hot.hot_session import HotSession
from context_store.hot.sessions import Slot
from context_store.log.keys import Keys
from context_store.log.links import Link, ancestor, forked, pack_links
from context_store.log.stored import base_arguments
from context_store.session.creating import Creator
from context_store.session.deletion import Deletions
from context_store.session.fork_notes import fork_name
from context_store.session.session_fields import MUTABLE, copy_fields, set_fields
from context_store.store import StaleError, Store, keys_of, now, require_turn
from context_store.turn import turns
from context_store.window.epoch import Base
from services.collections import collection_of
from services.errors import InvalidField, IsthmusError, NotFound
from services.valkey import Argument

# Turns that one read looks through for the latest one that is done.
_TURNS_COUNT: Final = 100


@dataclass(frozen=True, slots=True)
class Point:
    """Where a fork leaves its parent: the last turn and the last sequence number that they share.

    `done` is the latest shared turn that is done, `done_input` its last message; both 0 if there is none.
    """

    turn: int
    last: int
    done: int
    done_input: int


class ForkService:
    """Serves ForkSession."""

    def __init__(self, store: Store, creator: Creator, deletions: Deletions) -> None:
        self._store = store
        self._creator = creator
        self._deletions = deletions

    async def fork(self, request: api.ForkSessionRequest) -> Keys:
        """Makes the fork, once for each `fork_id`; its keys. TURN_STATE for a turn that is open.

        The session of a fork may be made, and its answer be lost, as often as it takes.
        """
        keys, fork = keys_of(request.key), Keys(request.key.tenant, request.session_id)
        if collection_of(keys.session):
            raise InvalidField(
                "key.session", f"is {keys.session!r}; expected a user's session, without a dot in its id"
            )
        if fork == keys:
            raise InvalidField("session_id", "is the session that is forked; expected another id")
        mark = request.fork_id or secrets.token_bytes(8)

        async def change(slot: Slot, hot: HotSession) -> tuple[HotSession, Point, tuple[Link, ...]]:
            point = await self._point(keys, hot, request.turn)
            links = self._links(hot, point)
            note, noted_ms = fork_name(fork, mark), time.time_ns() // 1_000_000
            reply = await self._store.log.note_fork(keys, hot.incarnation, hot.version, note, noted_ms)
            if reply.outcome == "STALE":
                raise StaleError
            hot.version = reply.version
            for link in links:
                if link.session != keys.session:
                    await self._note(ancestor(keys, link), link, note, noted_ms)
            return hot, point, links

        hot, point, links = await self._store.write(keys, change)
        own = self._own(keys, fork, hot, point, request.session)
        await self._creator.create(fork, own, mark, _fields(hot, point, links))
        incarnation, is_seen, _ = await self._store.log.presence(keys)
        is_erased = not is_seen or incarnation != hot.incarnation
        # Perhaps there was no fork to cut off by then. It stays: an earlier call may have been answered with it.
        if is_erased and not await self._deletions.cut(fork, mark, keys, hot.incarnation):
            raise NotFound(f"sessions/{fork.session}")
        return fork

    async def _note(self, keys: Keys, link: Link, note: str, noted_ms: int) -> None:
        try:
            await self._store.log.note_fork(keys, link.incarnation, b"", note, noted_ms)
        except NotFound:
            # An ancestor that is being erased cuts its forks off anyway, and a past that is gone reads as erased.
            return

    async def _point(self, keys: Keys, hot: HotSession, number: int) -> Point:
        if not number:
            last = hot.open.first_input_sequence - 1 if hot.open else hot.history.revision
            latest = hot.turn_count - 1 if hot.open else hot.turn_count
            done = await self._latest_done(keys, latest)
            return Point(latest, last, done.number, done.last_input_sequence)
        state = await self._store.log.turn_state(keys, number)
        turn = require_turn(keys.session, number, state.stored)
        if state.attempt or turn.state == turns.OPEN:
            raise IsthmusError(
                errors_pb2.ERROR_REASON_TURN_STATE, f"{turn.name} is open; expected a closed turn to fork at"
            )
        done = turn if turn.state == turn_pb2.Turn.STATE_DONE else await self._latest_done(keys, number - 1)
        last = max(turn.last_input_sequence, turn.last_output_sequence)
        return Point(number, last, done.number, done.last_input_sequence)

    async def _latest_done(self, keys: Keys, number: int) -> turn_pb2.Turn:
        """The latest turn up to `number` that is done; an empty one if there is none."""
        for last in range(number, 0, -_TURNS_COUNT):
            numbers = range(max(1, last - _TURNS_COUNT + 1), last + 1)
            for stored in reversed(await self._store.log.turns(keys, numbers)):
                turn = turn_pb2.Turn.FromString(stored or b"")
                if turn.state == turn_pb2.Turn.STATE_DONE:
                    return turn
        return turn_pb2.Turn()

    def _links(self, hot: HotSession, point: Point) -> tuple[Link, ...]:
        first_turn = max((link.last_turn for link in hot.links), default=0) + 1
        own = Link(hot.session, hot.incarnation, hot.shared + 1, point.last, first_turn, point.turn)
        links = forked(hot.links, own)
        if len(links) > self._store.settings.fork_links_count_max:
            raise InvalidField(
                "name",
                f"sessions/{hot.session} is a fork of forks already, {len(hot.links)} deep; expected less than"
                f" {self._store.settings.fork_links_count_max}, export and import it to have one of its own",
            )
        return links

    def _own(
        self, keys: Keys, fork: Keys, hot: HotSession, point: Point, asked: session_pb2.Session
    ) -> session_pb2.Session:
        own = session_pb2.Session(name=f"sessions/{fork.session}", etag=secrets.token_hex(8))
        copy_fields(hot.own, own, MUTABLE)
        copy_fields(asked, own, set_fields(asked))
        own.parent, own.parent_turn = f"sessions/{keys.session}", point.turn
        own.create_time.CopyFrom(now())
        own.update_time.CopyFrom(own.create_time)
        return own


def _fields(hot: HotSession, point: Point, links: tuple[Link, ...]) -> dict[str, Argument]:
    """What the fork's meta has other than that of an empty session."""
    fields: dict[str, Argument] = {
        "revision": point.last,
        "shared": point.last,
        "links": pack_links(links),
        "turn_count": point.turn,
        "done_turn": point.done,
        "done_input": point.done_input,
        "scale": repr(hot.scale),
    }
    if hot.tokenizer:
        fields["tokenizer"] = hot.tokenizer
    if _lies_within(hot.window.base, point.last):
        # The same window, so that replicas and their caches know its beginning.
        fields["window"], fields["epoch"] = base_arguments(hot.window.base)
    return fields


def _lies_within(base: Base, last: int) -> bool:
    """Whether all of an epoch's beginning is in the past up to `last`, and it is not merely the log's."""
    newest = max([base.tail_from - 1, base.began, *base.pinned, *(one.last for one in base.summaries)])
    return base.epoch > 1 and newest <= last
