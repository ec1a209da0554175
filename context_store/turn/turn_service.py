"""Turns as anyone may see, stop or wait for them."""

from __future__ import annotations

import asyncio

from google.protobuf import duration_pb2
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from context_store.log.keys import Keys
from context_store.log.stored import TurnState
from context_store.session import page_tokens
from context_store.store import Store, keys_of, now, page_count, read_page_token, refused, require_turn, with_text
from context_store.turn import turns
from context_store.turn.driving import find_repeat
from services.errors import InvalidField, IsthmusError, NotFound

PAGE_SIZE_DEFAULT = 100


class TurnService:
    """Serves all that is not the driver's hot path."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def lease_ms(self, field: str, lease: duration_pb2.Duration) -> int:
        """A lease's length; INVALID_FIELD outside of the bounds."""
        low, high = self._store.settings.lease_ms_min, self._store.settings.lease_ms_max
        if not low <= lease.ToMilliseconds() <= high:
            raise InvalidField(field, f"{lease.ToMilliseconds()} ms; expected {low} to {high} ms")
        return lease.ToMilliseconds()

    async def renew(self, request: api.RenewTurnRequest) -> None:
        """Extends the lease."""
        keys = keys_of(request.key)
        lease_ms = self.lease_ms("duration", request.duration)
        reply = await self._store.log.renew_turn(keys, request.lease, lease_ms)
        if reply.outcome == "REFUSED":
            find_repeat(keys, request.lease, reply, turns.Event.RENEW)

    async def fail(self, request: api.FailTurnRequest) -> turn_pb2.Turn:
        """Closes the turn as failed; its messages are void."""
        closed = turn_pb2.Turn(state=turns.TRANSITIONS[turns.OPEN, turns.Event.FAIL])
        closed.error.reason = request.reason
        closed.error.message = request.message
        return await self._close(keys_of(request.key), request.lease, turns.Event.FAIL, closed)

    async def cancel(self, request: api.CancelTurnRequest) -> turn_pb2.Turn:
        """Closes the turn as cancelled, whoever drives it."""
        closed = turn_pb2.Turn(state=turns.TRANSITIONS[turns.OPEN, turns.Event.CANCEL])
        return await self._close(keys_of(request.key), api.TurnLease(turn=request.turn), turns.Event.CANCEL, closed)

    async def _close(
        self, keys: Keys, lease: api.TurnLease, event: turns.Event, closed: turn_pb2.Turn
    ) -> turn_pb2.Turn:
        async with self._store.sessions.hold(keys) as slot:
            for _ in range(self._store.settings.revision_retries_count_max):
                state = await self._store.log.turn_state(keys, lease.turn, lease.incarnation)
                turn = _turn(keys, lease.turn, state)
                try:
                    if turns.is_repeat(turn.state, event, lease.attempt in (0, turn.attempt)):
                        return turn
                except turns.RefusedError as error:
                    raise refused(turn, error.reason) from error
                turn.MergeFrom(closed)
                turn.end_time.CopyFrom(now())
                if await self._store.close(slot, state.incarnation, turn, lease.attempt):
                    return turn
        raise IsthmusError(
            errors_pb2.ERROR_REASON_REVISION_CONFLICT,
            f"sessions/{keys.session}/turns/{lease.turn} changed hands under this call; expected it at rest once",
        )

    async def get(self, request: api.GetTurnRequest) -> turn_pb2.Turn:
        """The turn with its reply."""
        keys = keys_of(request.key)
        return await self._whole(keys, request.turn, await self._store.log.turn_state(keys, request.turn))

    async def _whole(self, keys: Keys, number: int, state: TurnState) -> turn_pb2.Turn:
        turn = _turn(keys, number, state)
        hot = await self._store.read(keys)
        if hot.incarnation != state.incarnation:
            raise NotFound(turn.name)
        return await with_text(self._store, hot, turn)

    async def list(self, request: api.ListTurnsRequest) -> api.ListTurnsResponse:
        """Turns by number, without their text."""
        keys = keys_of(request.key)
        last = await self._store.log.turn_count(keys)
        scope = f"turns/{keys.tenant}/{keys.session}"
        size = request.page_size or PAGE_SIZE_DEFAULT
        first = int(read_page_token(request.page_token, scope) or 0) + 1
        stored: list[bytes] = []
        # A fork whose parent is erased has no first turns.
        while not stored and first <= last:
            numbers = range(first, min(last, first + size - 1) + 1)
            stored = [one for one in await self._store.log.turns(keys, numbers) if one]
            first = numbers[-1] + 1
        count = page_count(map(len, stored), self._store.settings.page_bytes_max)
        shown = [turn_pb2.Turn.FromString(one) for one in stored[:count]]
        for turn in shown:
            turn.ClearField("piece_bytes")
        response = api.ListTurnsResponse(turns=shown)
        if shown and shown[-1].number < last:
            response.next_page_token = page_tokens.write(scope, str(shown[-1].number))
        return response

    async def wait(self, request: api.WaitTurnRequest) -> api.WaitTurnResponse:
        """Answers when the turn is closed, has the output asked for, its lease has lapsed, or after the timeout."""
        keys = keys_of(request.key)
        loop = asyncio.get_running_loop()
        timeout_ms = min(request.timeout.ToMilliseconds(), self._store.settings.wait_ms_max)
        deadline = loop.time() + timeout_ms / 1000
        incarnation = request.incarnation
        after = request.starting_after if request.HasField("starting_after") else None
        with self._store.sessions.watch(keys) as slot:
            while True:
                moved = slot.closed if after is None else slot.output
                state = await self._store.log.turn_state(keys, request.turn, incarnation, after)
                incarnation = state.incarnation
                remaining_s = deadline - loop.time()
                if not state.attempt or state.pieces or state.left_ms <= 0 or remaining_s <= 0:
                    break
                await _either(moved, min(remaining_s, self._store.settings.wait_poll_ms / 1000))
        count = page_count(map(len, state.pieces), self._store.settings.page_bytes_max)
        return api.WaitTurnResponse(
            turn=await self._whole(keys, request.turn, state),
            lease_lapsed=bool(state.attempt) and state.left_ms <= 0,
            pieces=map(api.OutputPiece.FromString, state.pieces[:count]),
            incarnation=incarnation,
        )


def _turn(keys: Keys, number: int, state: TurnState) -> turn_pb2.Turn:
    turn = require_turn(keys.session, number, state.stored)
    turn.attempt = state.attempt or turn.attempt
    return turn


async def _either(event: asyncio.Event, timeout_s: float) -> None:
    """Waits for the event, or for the time to pass."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
