"""What the driver of an open turn may do: plan its window anew, renew its lease, commit its reply."""

from __future__ import annotations

import time
from typing import Final

import structlog
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.session.v1 import fragment_pb2, message_pb2, turn_pb2

from context_store.hot.hot_session import HotSession
from context_store.hot.sessions import Slot
from context_store.log.fragments import Draft, Origin, drafts
from context_store.log.keys import Keys
from context_store.log.stored import Entry, Meter, Reply, tokenizer_of
from context_store.store import (
    StaleError,
    Store,
    counts_of,
    durability,
    entries,
    fragments,
    keys_of,
    now,
    refused,
    require_turn,
    timing,
    with_text,
)
from context_store.tiering.spill import BucketAwayError, Spilled
from context_store.turn import turns
from context_store.turn.finding import too_large
from context_store.window.epoch import TurnTooLargeError
from context_store.window.manifests import Manifests
from services.valkey import Ack

_log: Final = structlog.get_logger("context_store")


def find_repeat(keys: Keys, lease: api.TurnLease, reply: Reply, event: turns.Event) -> turn_pb2.Turn:
    """The closed turn, where the event of this attempt had happened already; else why it may not happen."""
    turn = require_turn(keys.session, lease.turn, reply.values[0])
    turn.attempt = int(reply.values[1]) or turn.attempt
    try:
        turns.is_repeat(turn.state, event, turn.attempt == lease.attempt)
    except turns.RefusedError as error:
        raise refused(turn, error.reason) from error
    return turn


async def driven_turn(
    store: Store, slot: Slot, hot: HotSession, lease: api.TurnLease, event: turns.Event
) -> tuple[HotSession, turn_pb2.Turn]:
    """A copy of the open turn, or the closed one where the event of this attempt had happened already."""
    if not _is_open(hot, lease):
        hot = await store.sessions.fresh(slot)
    if hot.open and _is_open(hot, lease):
        turn = turn_pb2.Turn()
        turn.CopyFrom(hot.open)
        turn.attempt = lease.attempt
        return hot, turn
    state = await store.log.turn_state(slot.keys, lease.turn, lease.incarnation)
    return hot, find_repeat(slot.keys, lease, Reply("REFUSED", [state.stored, state.attempt]), event)


def _is_open(hot: HotSession, lease: api.TurnLease) -> bool:
    return hot.incarnation == lease.incarnation and hot.open is not None and hot.open.number == lease.turn


class Replanning:
    """One ReplanTurn call."""

    def __init__(self, store: Store, manifests: Manifests, request: api.ReplanTurnRequest) -> None:
        self._store = store
        self._manifests = manifests
        self._request = request
        self._keys = keys_of(request.key)
        self._meter = Meter()

    async def run(self) -> api.OpenTurnResponse:
        return await self._store.write(self._keys, self._replan)

    async def _replan(self, slot: Slot, hot: HotSession) -> api.OpenTurnResponse:
        request, store = self._request, self._store
        hot, turn = await driven_turn(store, slot, hot, request.lease, turns.Event.REPLAN)
        tokenizer = tokenizer_of(request.tokenizer)
        started = time.perf_counter()
        # The copy is changed before Valkey is, to plan on it: without a success it is given up.
        slot.hot = None
        hot.use_tokenizer(tokenizer)
        try:
            plan = hot.plan_turn(turn, self._limit(hot, turn))
        except TurnTooLargeError as error:
            raise too_large(error) from error
        self._meter.plan_ms += (time.perf_counter() - started) * 1000
        reply = await store.log.replan_turn(
            self._keys,
            hot.version,
            hot.incarnation,
            turn,
            tokenizer,
            hot.scale,
            plan.base,
            counts_of(request.counts),
            self._meter,
        )
        if reply.outcome == "STALE":
            raise StaleError
        if reply.outcome == "REFUSED":
            find_repeat(self._keys, request.lease, reply, turns.Event.REPLAN)
            raise StaleError
        if plan.base:
            hot.begin_epoch(plan.base)
        hot.version = reply.version
        slot.hot = hot
        return api.OpenTurnResponse(
            outcome=api.OpenTurnResponse.OUTCOME_OPENED,
            turn=turn,
            manifest=await self._manifests.manifest(hot, turn, self._meter),
            timing=timing(self._meter, store.member_id),
            incarnation=hot.incarnation,
        )

    def _limit(self, hot: HotSession, turn: turn_pb2.Turn) -> int:
        """The room for the next plan, less what the replica measured beyond all counts and calibrated estimates."""
        for count in self._request.counts:
            hot.count(count.sequence, count.tokens)
        limit = hot.limit(self._request.window_tokens_max)
        measured = self._request.measured_tokens
        if not measured:
            return limit
        count_all = hot.window.count_to(turn.last_input_sequence)
        hot.calibrate(count_all, measured)
        return limit - max(0, measured - hot.window.tally(count_all).tokens(hot.scale))


class Committing:
    """One CommitTurn call."""

    def __init__(self, store: Store, request: api.CommitTurnRequest) -> None:
        self._store = store
        self._request = request
        self._keys = keys_of(request.key)
        self._meter = Meter()
        self._started = time.perf_counter()
        self._ack = Ack()
        self._spilled: Spilled | None = None
        # Whether the reply goes to the log as it is, for want of a bucket.
        self._stays = False

    async def run(self) -> api.CommitTurnResponse:
        turn = await self._store.write(self._keys, self._commit)
        return api.CommitTurnResponse(
            turn=turn, timing=timing(self._meter, self._store.member_id), durability=durability(self._ack)
        )

    async def _commit(self, slot: Slot, hot: HotSession) -> turn_pb2.Turn:
        request, store = self._request, self._store
        hot, turn = await driven_turn(store, slot, hot, request.lease, turns.Event.COMMIT)
        if turn.state != turns.OPEN:
            return await with_text(store, hot, turn)
        origin = Origin(fragment_pb2.FRAGMENT_KIND_REPLY, message_pb2.ROLE_ASSISTANT, turn=request.lease.turn)
        parts = drafts(request.output_text, origin, store.settings.fragment_bytes_max)
        turn = self._close(hot, turn, parts)
        self._meter.plan_ms = (time.perf_counter() - self._started) * 1000
        tokenizer, counts = tokenizer_of(request.tokenizer), counts_of(request.counts)
        reply = await store.log.commit_turn(
            self._keys,
            hot.version,
            hot.incarnation,
            turn,
            tokenizer,
            counts,
            await self._entries(hot, parts, turn),
            self._meter,
            disk=hot.is_on_disk,
        )
        if reply.outcome == "STALE":
            raise StaleError
        self._ack = reply.ack
        if reply.outcome == "REFUSED":
            done = find_repeat(self._keys, request.lease, reply, turns.Event.COMMIT)
            return await with_text(store, hot, done)
        self._apply(hot, reply, turn, parts)
        slot.tell_closed()
        if self._spilled:
            await store.spill.keep(self._spilled)
        turn.output_text = self._request.output_text
        return turn

    async def _entries(self, hot: HotSession, parts: list[Draft], turn: turn_pb2.Turn) -> list[Entry]:
        """The reply as the log has it: a large one is in an object, once for all attempts of this call."""
        stored, spill = entries(parts, turn.end_time), self._store.spill
        if self._stays or not spill.is_large(sum(part.size for part in parts)):
            return stored
        if self._spilled is None:
            try:
                self._spilled = await spill.write(self._keys, hot.incarnation, hot.version, turn.number, stored)
            except BucketAwayError as error:
                # Objects only spare Valkey memory: no turn waits until the bucket is back.
                _log.warning("a large reply stays in Valkey", session=self._keys.session, problem=str(error))
                self._stays = True
                return stored
        if self._spilled is None:
            raise StaleError
        return self._spilled.entries

    def _close(self, hot: HotSession, turn: turn_pb2.Turn, parts: list[Draft]) -> turn_pb2.Turn:
        turn.state = turns.TRANSITIONS[turns.OPEN, turns.Event.COMMIT]
        turn.end_time.CopyFrom(now())
        turn.finish_reason = self._request.finish_reason
        if parts:
            turn.first_output_sequence = hot.history.revision + 1
            turn.last_output_sequence = hot.history.revision + len(parts)
        turn.piece_bytes[:] = self._request.piece_bytes
        turn.receipt.CopyFrom(self._request.receipt)
        turn.receipt.shard = self._store.member_id
        return turn

    def _apply(self, hot: HotSession, reply: Reply, turn: turn_pb2.Turn, parts: list[Draft]) -> None:
        hot.done(turn, parts)
        hot.version = reply.version
        hot.use_tokenizer(tokenizer_of(self._request.tokenizer))
        for count in self._request.counts:
            hot.count(count.sequence, count.tokens)
        whole = fragments(hot.session, turn.first_output_sequence, parts, turn.end_time)
        self._store.bodies.keep(self._keys, hot.incarnation, whole)
