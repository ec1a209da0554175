"""What all services of a shard share: the log, the hot sessions, and how a write finds its place among others."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf import timestamp_pb2
from isthmus.context.v1 import context_service_pb2, summary_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import fragment_pb2, message_pb2, turn_pb2

from context_store.hot.hot_session import HotSession
from context_store.hot.ownership import Ownership
from context_store.hot.sessions import Sessions, Slot
from context_store.log.bodies import Bodies
from context_store.log.fragments import Draft, Origin, drafts, pack
from context_store.log.keys import Keys
from context_store.log.log import Log
from context_store.log.stored import Entry, Meter, Reply
from context_store.session import page_tokens
from context_store.session.quotas import Usage
from context_store.tiering.spill import Spill
from context_store.tiering.tiers import Tiers
from context_store.turn import turns
from context_store.window.events import SegmentEvents
from services.config import StoreSettings
from services.errors import InvalidField, IsthmusError, NotFound, Reason
from services.rpc import redirects
from services.valkey import Ack

T = TypeVar("T")

RETRY_AFTER_MS_MAX = 1_000


class StaleError(Exception):
    """The log has moved on since the copy was made; nothing was written."""


class LapsedError(Exception):
    """Another turn is open but its lease has lapsed: it has to expire first."""

    def __init__(self, turn: int) -> None:
        super().__init__(turn)
        self.turn = turn


@dataclass(frozen=True, slots=True)
class Store:
    """The parts of a shard."""

    log: Log
    sessions: Sessions
    bodies: Bodies
    events: SegmentEvents
    settings: StoreSettings
    member_id: str
    ownership: Ownership
    tiers: Tiers
    spill: Spill
    usage: Usage

    async def write(
        self, keys: Keys, change: Callable[[Slot, HotSession], Awaitable[T]], *, at_owner: bool = False
    ) -> T:
        """Runs `change` on the session's copy, again on a newer one whenever the log has moved on under it.

        `change` raises StaleError or LapsedError having written nothing. REVISION_CONFLICT after too many attempts.
        With `at_owner`, SESSION_MOVED where another shard owns the session, at first or once the log has moved on.
        """
        async with self.sessions.hold(keys) as slot:
            is_stale = False
            for _ in range(self.settings.revision_retries_count_max):
                if at_owner:
                    self._check_owner(slot, is_stale)
                hot = await (self.sessions.refresh(slot) if is_stale else self.sessions.current(slot))
                is_stale = False
                if hot.own.HasField("ttl"):
                    await self.log.require_alive(keys)
                try:
                    result = await change(slot, hot)
                except StaleError:
                    is_stale = True
                except LapsedError as lapsed:
                    await self._expire(slot, lapsed.turn)
                else:
                    self._noted(keys, slot)
                    return result
        raise IsthmusError(
            errors_pb2.ERROR_REASON_REVISION_CONFLICT,
            f"sessions/{keys.session}: its log moved on {self.settings.revision_retries_count_max} times under this"
            " call; expected to find it at rest once",
        )

    def _noted(self, keys: Keys, slot: Slot) -> None:
        self.tiers.touches.note(keys)
        self.events.announce(keys, slot.hot)
        if slot.hot:
            self.usage.note(keys, slot.hot)

    async def read(self, keys: Keys, *, at_owner: bool = False) -> HotSession:
        """The session's copy as Valkey has it now. It may change after the answer: use it before the next await.

        With `at_owner`, SESSION_MOVED where another shard owns the session.
        """
        async with self.sessions.hold(keys) as slot:
            if at_owner:
                self._check_owner(slot)
            hot = await self.sessions.fresh(slot)
            if hot.own.HasField("ttl"):
                await self.log.require_alive(keys)
            self.events.announce(keys, hot)
            return hot

    def _check_owner(self, slot: Slot, is_stale: bool = False) -> None:
        """Raises SESSION_MOVED, with the copy dropped, where the caller had better ask another shard."""
        is_open = bool(slot.open_turn) and not is_stale
        try:
            self.ownership.check(slot.keys, is_redirected=redirects.is_redirected(), is_open=is_open)
        except IsthmusError:
            slot.hot = None
            raise

    async def appended(self, slot: Slot, hot: HotSession, reply: Reply, parts: Sequence[Draft]) -> None:
        """Takes in fragments that a script appended at whatever place was the log's end."""
        if reply.outcome == "APPENDED" and reply.values[1] == hot.version:
            hot.append(parts)
            hot.version = reply.version
        elif reply.version != hot.version:
            await self.sessions.refresh(slot)

    async def expire_turn(self, keys: Keys, number: int) -> None:
        """Closes an open turn whose lease has lapsed, if it is still open."""
        async with self.sessions.hold(keys) as slot:
            await self._expire(slot, number)

    async def _expire(self, slot: Slot, number: int) -> None:
        state = await self.log.turn_state(slot.keys, number)
        if not state.attempt:
            # Closed by now, or of a session that had this id before.
            return
        turn = turn_pb2.Turn.FromString(state.stored)
        turn.state = turns.EXPIRED
        turn.end_time.CopyFrom(now())
        await self.close(slot, state.incarnation, turn, 0, is_lapsed_only=True)

    async def close(
        self, slot: Slot, incarnation: bytes, turn: turn_pb2.Turn, attempt: int, is_lapsed_only: bool = False
    ) -> bool:
        """Closes the open turn as `turn` says, in any attempt if 0. False if it is not open so, or its lease lives."""
        letter = turns.LETTERS[turn.state]
        reply = await self.log.close_turn(slot.keys, incarnation, turn, letter, attempt, is_lapsed_only)
        if reply.outcome != "CLOSED":
            return False
        if slot.hot and slot.hot.version == reply.values[1]:
            slot.hot.voided(turn)
            slot.hot.version = reply.version
        slot.tell_closed()
        return True

    def drafts(self, messages: Iterable[message_pb2.Message], turn: int) -> list[Draft]:
        """The fragments of a request's messages, in order."""
        kind = fragment_pb2.FRAGMENT_KIND_MESSAGE
        return [
            draft
            for message in messages
            for draft in drafts(
                message.text,
                Origin(kind, message.role, message.author, message.pinned, turn),
                self.settings.fragment_bytes_max,
            )
        ]

    def check_size(self, messages: Sequence[message_pb2.Message]) -> None:
        """Refuses more text than one request may append."""
        size = sum(len(message.text.encode()) for message in messages)
        if size > self.settings.append_bytes_max:
            raise InvalidField(
                "messages", f"{size} bytes of text; expected at most {self.settings.append_bytes_max} in one request"
            )


def keys_of(key: context_service_pb2.SessionKey) -> Keys:
    return Keys(key.tenant, key.session)


def now() -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromNanoseconds(time.time_ns())
    return stamp


def entries(parts: Iterable[Draft], created: timestamp_pb2.Timestamp) -> list[Entry]:
    """Fragments in their stored form."""
    return [Entry(part.header(created).SerializeToString(), pack(part.text.encode()), part.size) for part in parts]


def fragments(
    session: str, first: int, parts: Iterable[Draft], created: timestamp_pb2.Timestamp
) -> list[fragment_pb2.Fragment]:
    """The whole fragments that `parts` become from sequence number `first` on."""
    whole = []
    for sequence, part in enumerate(parts, first):
        fragment = part.header(created)
        fragment.name = f"sessions/{session}/fragments/{sequence}"
        fragment.sequence = sequence
        fragment.text = part.text
        whole.append(fragment)
    return whole


def turn_in_progress(session: str, left_ms: int) -> IsthmusError:
    return IsthmusError(
        errors_pb2.ERROR_REASON_TURN_IN_PROGRESS,
        f"sessions/{session}: another turn is open; expected none, wait until it is done",
        retry_after_ms=max(1, min(left_ms, RETRY_AFTER_MS_MAX)),
    )


def refused(turn: turn_pb2.Turn, reason: Reason) -> IsthmusError:
    """Why an event may not happen to a turn, in words."""
    state = turn_pb2.Turn.State.Name(turn.state).removeprefix("STATE_")
    return IsthmusError(
        reason, f"{turn.name} is {state} in attempt {turn.attempt}; expected an open turn that this caller drives"
    )


async def with_text(store: Store, hot: HotSession, turn: turn_pb2.Turn) -> turn_pb2.Turn:
    """The turn with what the copy knows to be left of its reply."""
    if turn.first_output_sequence:
        history, all_ = hot.history, range(turn.first_output_sequence, turn.last_output_sequence + 1)
        sequences = [one for one in all_ if one > history.revision or not history.is_erased(one)]
        parts = await store.bodies.get(Keys(hot.tenant, hot.session), hot.incarnation, sequences)
        turn.output_text = "".join(part.text for part in parts)
    return turn


def page_count(sizes: Iterable[int], bytes_max: int) -> int:
    """How many of the first things fit into one page by their bytes, at least one of them if there are any."""
    count = total = 0
    for size in sizes:
        total += size
        if count and total > bytes_max:
            break
        count += 1
    return count


def read_page_token(token: str, scope: str) -> str:
    """The position that a page token says, empty for the first page; INVALID_PAGE_TOKEN for a foreign one."""
    try:
        return page_tokens.read(token, scope)
    except page_tokens.PageTokenError as error:
        raise IsthmusError(
            errors_pb2.ERROR_REASON_INVALID_PAGE_TOKEN,
            "page_token: not issued by this method for these parameters; expected next_page_token of the page before",
        ) from error


def counts_of(counts: Iterable[summary_pb2.TokenCount]) -> list[tuple[int, int]]:
    return [(count.sequence, count.tokens) for count in counts]


def require_turn(session: str, number: int, stored: bytes) -> turn_pb2.Turn:
    """The turn that was read; NotFound if there was none."""
    if not stored:
        raise NotFound(f"sessions/{session}/turns/{number}")
    return turn_pb2.Turn.FromString(stored)


def durability(ack: Ack) -> turn_pb2.DurabilityReport:
    """What an acknowledged write has reached."""
    return turn_pb2.DurabilityReport(replicas=ack.replicas, on_disk=ack.on_disk, degraded=ack.degraded)


def timing(meter: Meter, member_id: str) -> context_service_pb2.StoreTiming:
    return context_service_pb2.StoreTiming(
        plan_ms=meter.plan_ms,
        valkey_ms=meter.valkey_ms,
        valkey_bytes_sent=meter.bytes_sent,
        valkey_bytes_received=meter.bytes_received,
        shard=member_id,
    )
