"""A turn that is there already: driven on by who has its lease now, waited for, or told as it ended."""

from __future__ import annotations

from dataclasses import dataclass

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from context_store.hot.hot_session import HotSession
from context_store.hot.sessions import Slot
from context_store.log.keys import Keys
from context_store.log.stored import Meter, Reply, tokenizer_of
from context_store.store import StaleError, Store, durability, keys_of, require_turn, timing, with_text
from context_store.window.epoch import TurnTooLargeError
from context_store.window.manifests import Manifests
from services.errors import IsthmusError, NotFound
from services.valkey import Ack


@dataclass(frozen=True, slots=True)
class Room:
    """What the driver's model leaves to the window: tokens of the tokenizer with this digest."""

    tokens_max: int
    tokenizer: bytes


def too_large(error: TurnTooLargeError) -> IsthmusError:
    return IsthmusError(
        errors_pb2.ERROR_REASON_TURN_TOO_LARGE,
        f"the turn's own messages and what is pinned take {error.tokens} tokens; expected at most {error.tokens_max},"
        " write long texts as documents",
        metadata={"tokens": str(error.tokens), "tokens_max": str(error.tokens_max)},
    )


class FoundTurn:
    """Answers for a turn that a script has found, as open_turn.lua has it: AGAIN, TAKEN_OVER, ATTACHED, FINISHED."""

    def __init__(self, store: Store, manifests: Manifests, keys: Keys, room: Room, meter: Meter) -> None:
        self._store = store
        self._manifests = manifests
        self._keys = keys
        self._room = room
        self._meter = meter

    async def tell(self, slot: Slot, reply: Reply) -> api.OpenTurnResponse:
        match reply.outcome:
            case "AGAIN":
                return await self._resume(slot, reply, api.OpenTurnResponse.OUTCOME_OPENED)
            case "TAKEN_OVER":
                return await self._resume(slot, reply, api.OpenTurnResponse.OUTCOME_TAKEN_OVER)
            case "ATTACHED":
                return self._waiting(reply)
            case "FINISHED":
                return await self._finished(slot, reply)
            case outcome:
                raise AssertionError(f"a script found a turn {outcome}")

    async def driving(
        self, hot: HotSession, turn: turn_pb2.Turn, outcome: api.OpenTurnResponse.Outcome.ValueType, ack: Ack
    ) -> api.OpenTurnResponse:
        """The caller drives the turn: with the window to drive it on."""
        return api.OpenTurnResponse(
            outcome=outcome,
            turn=turn,
            manifest=await self._manifests.manifest(hot, turn, self._meter),
            timing=timing(self._meter, self._store.member_id),
            durability=durability(ack),
            incarnation=hot.incarnation,
        )

    async def _finished(self, slot: Slot, reply: Reply) -> api.OpenTurnResponse:
        turn = require_turn(self._keys.session, 0, reply.values[2])
        hot = await self._same(slot, reply)
        return api.OpenTurnResponse(
            outcome=api.OpenTurnResponse.OUTCOME_FINISHED,
            turn=await with_text(self._store, hot, turn),
            timing=timing(self._meter, self._store.member_id),
        )

    def _waiting(self, reply: Reply) -> api.OpenTurnResponse:
        turn = turn_pb2.Turn.FromString(reply.values[2])
        turn.attempt = int(reply.values[3])
        return api.OpenTurnResponse(
            outcome=api.OpenTurnResponse.OUTCOME_ATTACHED,
            turn=turn,
            timing=timing(self._meter, self._store.member_id),
            incarnation=bytes(reply.values[1]),
        )

    async def _resume(
        self, slot: Slot, reply: Reply, outcome: api.OpenTurnResponse.Outcome.ValueType
    ) -> api.OpenTurnResponse:
        """The caller drives a turn that is in the log: its window is planned anew, as it may have another room."""
        store = self._store
        hot = await self._same(slot, reply)
        hot.use_tokenizer(self._room.tokenizer)
        turn = turn_pb2.Turn.FromString(reply.values[2])
        turn.attempt = int(reply.values[3])
        try:
            plan = hot.plan_turn(turn, hot.limit(self._room.tokens_max))
        except TurnTooLargeError as error:
            raise too_large(error) from error
        if plan.base:
            kept = await store.log.replan_turn(
                self._keys, hot.version, hot.incarnation, turn, b"", hot.scale, plan.base, (), self._meter
            )
            if kept.outcome != "PLANNED":
                raise StaleError
            hot.begin_epoch(plan.base)
            hot.version = kept.version
        return await self.driving(hot, turn, outcome, reply.ack)

    async def _same(self, slot: Slot, reply: Reply) -> HotSession:
        """The session that a turn was found in, as it is now."""
        hot = await self._store.sessions.fresh(slot)
        if hot.incarnation != reply.values[1]:
            raise StaleError
        return hot


class Taking:
    """One TakeTurn call."""

    def __init__(self, store: Store, manifests: Manifests, request: api.TakeTurnRequest, lease_ms: int) -> None:
        self._store = store
        self._request = request
        self._lease_ms = lease_ms
        self._keys = keys_of(request.key)
        self._meter = Meter()
        room = Room(request.window_tokens_max, tokenizer_of(request.tokenizer))
        self._found_turn = FoundTurn(store, manifests, self._keys, room, self._meter)

    async def run(self) -> api.OpenTurnResponse:
        return await self._store.write(self._keys, self._take, at_owner=True)

    async def _take(self, slot: Slot, hot: HotSession) -> api.OpenTurnResponse:
        request = self._request
        reply = await self._store.log.take_turn(
            self._keys, request.turn, request.incarnation, request.driver, self._lease_ms, self._meter
        )
        if reply.outcome == "UNKNOWN":
            raise NotFound(f"sessions/{self._keys.session}/turns/{request.turn}")
        return await self._found_turn.tell(slot, reply)
