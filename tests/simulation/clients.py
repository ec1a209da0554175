"""Clients: one thing after the other, turns among them, which they drive as gateways do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from random import Random

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, turn_pb2

from services.errors import IsthmusError
from tests.simulation.caller import ROUNDS_MAX, TOKENIZER, Caller, key_of, milliseconds
from tests.simulation.driver import Driver, answered
from tests.simulation.errands import Errands
from tests.simulation.history import Opened
from tests.simulation.plan import Kind, Op


class Client:
    """One client; each of its things is perhaps done by two callers at once."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        errands = Errands(caller)
        self._do: dict[Kind, Callable[[Op, str, Random], Awaitable[None]]] = {
            Kind.TURN: self.turn,
            Kind.APPEND: errands.append,
            Kind.CANCEL: errands.cancel,
            Kind.ERASE: errands.erase,
            Kind.SUMMARISE: errands.summarise,
            Kind.DOCUMENT: errands.document,
            Kind.FREEZE: errands.freeze,
            Kind.FORK: errands.fork,
            Kind.DELETE: errands.delete,
        }

    async def run(self, ops: tuple[Op, ...]) -> None:
        for op in ops:
            await asyncio.sleep(op.pause_s)
            callers = ["x", "y"] if op.is_doubled else ["x"]
            await asyncio.gather(*(self._do[op.kind](op, name, Random(f"{op.seed}{name}")) for name in callers))

    async def turn(self, op: Op, caller: str, random: Random) -> None:
        """Opens until the turn is ours or it is known how it ended, as a gateway does."""
        began = self._caller.history.begin(op.key)
        self._caller.history.requests[op.key] = op.texts
        messages = [message_pb2.Message(role=message_pb2.ROLE_USER, text=text) for text in op.texts]
        life = 0
        for _ in range(ROUNDS_MAX):
            driver = f"{op.key}{caller}{life}"
            request = api.OpenTurnRequest(
                key=key_of(op.session),
                request_id=op.key,
                body_digest=blake2b(repr(op.texts).encode(), digest_size=16).digest(),
                driver=driver,
                messages=messages,
                model="m",
                window_tokens_max=self._caller.plan.room_tokens,
                tokenizer=TOKENIZER,
                lease=milliseconds(self._caller.plan.lease_ms),
            )
            sent_s = self._caller.loop.time()
            opened = await self._caller.ask(driver, "OpenTurn", request, api.OpenTurnResponse)
            if isinstance(opened, IsthmusError):
                if opened.reason != errors_pb2.ERROR_REASON_TURN_TOO_LARGE:
                    self._caller.refused(driver, "OpenTurn", op.session, opened)
                return
            if opened.outcome == api.OpenTurnResponse.OUTCOME_FINISHED:
                answered(self._caller, op, opened.turn, began)
                return
            if opened.outcome == api.OpenTurnResponse.OUTCOME_ATTACHED:
                if await self._waited(op, driver, opened, began):
                    return
                continue
            self._opened(op, opened, sent_s, began)
            if await Driver(self._caller, op, driver, opened, random, began).run():
                return
            life += 1
        self._caller.history.violate(f"{op.key}: no end after {ROUNDS_MAX} rounds")

    def _opened(self, op: Op, opened: api.OpenTurnResponse, sent_s: float, began: int) -> None:
        turn = opened.turn
        is_taken_over = opened.outcome == api.OpenTurnResponse.OUTCOME_TAKEN_OVER
        until_s = sent_s + self._caller.plan.lease_ms / 1000
        self._caller.history.opened.append(
            Opened(
                op.session, op.key, turn.number, turn.attempt, is_taken_over, self._caller.loop.time(), until_s, began
            )
        )

    async def _waited(self, op: Op, who: str, opened: api.OpenTurnResponse, began: int) -> bool:
        """Waits for another driver. Whether the turn came to an answer."""
        request = api.WaitTurnRequest(
            key=key_of(op.session),
            turn=opened.turn.number,
            timeout=milliseconds(1_000),
            incarnation=opened.incarnation,
        )
        waited = await self._caller.ask(who, "WaitTurn", request, api.WaitTurnResponse)
        if isinstance(waited, IsthmusError):
            self._caller.refused(who, "WaitTurn", op.session, waited)
            return True
        if waited.turn.state not in (turn_pb2.Turn.STATE_DONE, turn_pb2.Turn.STATE_CANCELLED):
            return False
        answered(self._caller, op, waited.turn, began)
        return True
