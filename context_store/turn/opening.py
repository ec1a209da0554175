"""Opening a turn: one trip to Valkey finds the turn that a request has, or appends its messages and opens one."""

from __future__ import annotations

import time

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from context_store.hot.hot_session import HotSession, Plan
from context_store.hot.sessions import Slot
from context_store.log.fragments import Draft
from context_store.log.stored import Meter, NewTurn, Reply, tokenizer_of
from context_store.store import (
    LapsedError,
    StaleError,
    Store,
    entries,
    fragments,
    keys_of,
    now,
    turn_in_progress,
)
from context_store.turn import turns
from context_store.turn.finding import FoundTurn, Room, too_large
from context_store.window.epoch import TurnTooLargeError
from context_store.window.manifests import Manifests
from services.errors import IsthmusError


class Opening:
    """One OpenTurn call."""

    def __init__(self, store: Store, manifests: Manifests, request: api.OpenTurnRequest, lease_ms: int) -> None:
        self._store = store
        self._request = request
        self._lease_ms = lease_ms
        self._keys = keys_of(request.key)
        self._meter = Meter()
        room = Room(request.window_tokens_max, tokenizer_of(request.tokenizer))
        self._found_turn = FoundTurn(store, manifests, self._keys, room, self._meter)

    async def run(self) -> api.OpenTurnResponse:
        return await self._store.write(self._keys, self._open, at_owner=True)

    async def _open(self, slot: Slot, hot: HotSession) -> api.OpenTurnResponse:
        started = time.perf_counter()
        tokenizer = tokenizer_of(self._request.tokenizer)
        if tokenizer and tokenizer != hot.tokenizer:
            # Forgets the counts by another one. The copy is changed before Valkey is: without a success it is given up.
            slot.hot = None
            hot.use_tokenizer(tokenizer)
        turn = self._new_turn(hot)
        parts = self._store.drafts(self._request.messages, turn.number)
        turn.last_input_sequence = hot.history.revision + len(parts)
        plan = self._plan(hot, parts)
        new = self._write(hot, turn, parts, plan)
        self._meter.plan_ms += (time.perf_counter() - started) * 1000
        reply = await self._store.log.open_turn(self._keys, new, self._meter, disk=hot.is_on_disk)
        if reply.outcome == "OPENED" and isinstance(plan, Plan):
            slot.hot = hot
            return await self._opened(hot, reply, turn, parts, plan)
        if reply.outcome == "NEW" and isinstance(plan, IsthmusError):
            if reply.version != hot.version:
                raise StaleError
            raise plan
        return await self._found(slot, hot, reply)

    def _plan(self, hot: HotSession, parts: list[Draft]) -> Plan | IsthmusError:
        """The plan, or why there is none.

        The request may have its turn already, from when there was more room: that is asked before it is refused.
        """
        try:
            self._store.usage.check(self._keys, hot, sum(part.size for part in parts))
            return hot.plan(parts, hot.limit(self._request.window_tokens_max))
        except TurnTooLargeError as error:
            return too_large(error)
        except IsthmusError as error:
            return error

    def _new_turn(self, hot: HotSession) -> turn_pb2.Turn:
        number = hot.turn_count + 1
        return turn_pb2.Turn(
            name=f"sessions/{self._keys.session}/turns/{number}",
            number=number,
            state=turns.OPEN,
            request_id=self._request.request_id,
            create_time=now(),
            first_input_sequence=hot.history.revision + 1,
            params=self._request.params if self._request.HasField("params") else None,
            model=self._request.model,
            attempt=1,
            on_disconnect=self._request.on_disconnect,
            labels=self._request.labels,
        )

    def _write(self, hot: HotSession, turn: turn_pb2.Turn, parts: list[Draft], plan: Plan | IsthmusError) -> NewTurn:
        request = self._request
        is_probe = not isinstance(plan, Plan)
        return NewTurn(
            version=hot.version,
            request_id=request.request_id,
            digest=request.body_digest,
            driver=request.driver,
            lease_ms=self._lease_ms,
            after_turn=request.after_turn if request.HasField("after_turn") else None,
            turn=turn,
            base=plan.base if isinstance(plan, Plan) else None,
            entries=() if is_probe else entries(parts, turn.create_time),
            is_probe=is_probe,
        )

    async def _opened(
        self, hot: HotSession, reply: Reply, turn: turn_pb2.Turn, parts: list[Draft], plan: Plan
    ) -> api.OpenTurnResponse:
        hot.opened(turn, parts, plan.base)
        hot.version = reply.version
        whole = fragments(hot.session, turn.first_input_sequence, parts, turn.create_time)
        self._store.bodies.keep(self._keys, hot.incarnation, whole)
        return await self._found_turn.driving(hot, turn, api.OpenTurnResponse.OUTCOME_OPENED, reply.ack)

    async def _found(self, slot: Slot, hot: HotSession, reply: Reply) -> api.OpenTurnResponse:
        match reply.outcome:
            case "STALE":
                raise StaleError
            case "LAPSED":
                raise LapsedError(int(reply.values[1]))
            case "BUSY":
                raise turn_in_progress(self._keys.session, int(reply.values[1]))
            case "NOT_LATEST" | "REUSED":
                raise self._refusal(reply)
            case _:
                return await self._found_turn.tell(slot, reply)

    def _refusal(self, reply: Reply) -> IsthmusError:
        if reply.outcome == "NOT_LATEST":
            return IsthmusError(
                errors_pb2.ERROR_REASON_NOT_LATEST_TURN,
                f"turn {self._request.after_turn} is not the latest one that is done; expected {int(reply.values[1])}",
                metadata={"latest_turn": str(int(reply.values[1]))},
            )
        return IsthmusError(
            errors_pb2.ERROR_REASON_REQUEST_ID_REUSED,
            f"request_id {self._request.request_id!r} was used with another body; expected the same body or a new id",
        )
