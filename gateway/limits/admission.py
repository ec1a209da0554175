"""Turns before they run: their callers' limits, then the fair line; and behind them, what they have cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from isthmus.session.v1 import message_pb2, session_service_pb2, turn_pb2

from gateway.limits.estimate import Windows, estimate, spent, tokens_of_bytes
from gateway.limits.limiter import Limiter, Ticket
from gateway.limits.metrics import LimitMetrics
from gateway.limits.queue import TurnQueue
from gateway.models.replicas import Replicas
from gateway.turn.receipt import GATEWAY_INFERENCE
from services.config import GatewaySettings
from services.errors import IsthmusError
from services.limits.money import Tokens, cost_micros, price_of
from services.limits.standing import Cost

Event = session_service_pb2.RunTurnResponse


class Entry:
    """A call on its way in, and what it turns out to cost. `estimated` are its tokens as far as anybody knows yet."""

    def __init__(self, admission: Admission, tenant: str, session: str = "", user: str = "", model: str = "") -> None:
        self._admission = admission
        self.tenant = tenant
        self.session = session
        self.user = user
        self.model = model
        self.estimated = Tokens(1)
        self.ticket: Ticket | None = None
        self._is_generating = False
        self._output_bytes = 0
        # Tries of the reply that checks refused.
        self._refused = turn_pb2.Receipt()
        self._receipt: turn_pb2.Receipt | None = None
        self._settling: asyncio.Task[None] | None = None

    @property
    def spent(self) -> Tokens:
        """What is known to have been computed: by the receipt, or else by how far the turn has come.

        Nothing where another gateway drives the turn: there it was let in, and there it is paid for.
        """
        refused = spent(self._refused)
        if not self._is_generating:
            return refused
        if self._receipt is not None:
            return spent(self._receipt)
        output = tokens_of_bytes(self._output_bytes) if self._output_bytes else 0
        return Tokens(
            refused.input + self.estimated.input, refused.cached + self.estimated.cached, refused.output + output
        )

    def see(self, event: Event) -> None:
        """An event of the turn, before it is told: `done` settles it."""
        match event.WhichOneof("event"):
            case "hop":
                self._is_generating |= event.hop.name == GATEWAY_INFERENCE
            case "delta":
                self._output_bytes += len(event.delta.text.encode())
            case "refused":
                self._is_generating = False
                self._refused.refused_tries.append(event.refused)
            case "done":
                # A cached answer may follow on a try that was paid for.
                self._is_generating |= bool(self._refused.refused_tries)
                self._receipt = event.done.turn.receipt
                self._admission.seen(self.tenant, self.session, self._receipt)
                self.settle(self.spent)

    def settle(self, spent: Tokens) -> None:
        """Begins to settle what it has cost; once."""
        if self.ticket is not None:
            ticket, self.ticket = self.ticket, None
            work = self._admission.settled(ticket, self.model, spent)
            self._settling = asyncio.create_task(work, name="settle limits")

    async def settled(self) -> None:
        """Waits until that is done. A client reads `done` behind it: his next turn finds the place of this one free."""
        if self._settling is not None:
            await asyncio.shield(self._settling)


class Admission:
    """Lets turns in, at most `gateway.turns_count_max` at once."""

    def __init__(self, limiter: Limiter, replicas: Replicas, settings: GatewaySettings, metrics: LimitMetrics) -> None:
        self.limiter = limiter
        self.metrics = metrics
        self._replicas = replicas
        self._settings = settings
        self._queue = TurnQueue(settings.turns_count_max, settings.limits, metrics)
        self._windows = Windows(settings.limits.windows_count_max)

    def turn(self, tenant: str, request: session_service_pb2.RunTurnRequest) -> Entry:
        """A turn that is asked for."""
        session = request.session.removeprefix("sessions/")
        entry = Entry(self, tenant, session, request.user, request.model)
        entry.estimated = self._estimate(tenant, session, request.messages)
        return entry

    def shed(self, tenant: str) -> None:
        """Refuses at once what could be no turn now, whatever it asks for; raises as `admitted` does."""
        self.limiter.check(self.limiter.callers(tenant))
        self._queue.check(tenant, 0, time.monotonic() + self._settings.turn_deadline_ms / 1000)

    @asynccontextmanager
    async def admitted(self, entry: Entry, until: float) -> AsyncIterator[None]:
        """A turn that may run now, and is over by `until` of time.monotonic(); `entry` has to see its events.

        Raises OVERLOADED where the line refuses it, and what Limiter raises. The line is asked before the limits are:
        who is refused for the load costs no trip and pays nothing.
        """
        self._queue.check(entry.tenant, entry.estimated.input, until)
        async with self._held(entry), self._queue.place(entry.tenant, entry.estimated.input, until):
            yield

    @asynccontextmanager
    async def embedding(self, tenant: str, user: str, model: str, text_bytes: int) -> AsyncIterator[Entry]:
        """Texts that may be made vectors now; `Entry.settle` says how many tokens they were. Raises as Limiter."""
        entry = Entry(self, tenant, "", user, model)
        entry.estimated = Tokens(tokens_of_bytes(text_bytes))
        async with self._held(entry):
            yield entry

    async def settled(self, ticket: Ticket, model: str, spent: Tokens) -> None:
        """A ticket's cost is known."""
        await self.limiter.settle(ticket, self._cost(model, spent))

    def seen(self, tenant: str, session: str, receipt: turn_pb2.Receipt) -> None:
        """A turn of a session has ended."""
        self._windows.seen(tenant, session, receipt.tokens)

    @asynccontextmanager
    async def _held(self, entry: Entry) -> AsyncIterator[None]:
        callers = self.limiter.callers(entry.tenant, entry.user)
        if callers:
            entry.ticket = await self.limiter.hold(callers, self._cost(entry.model, entry.estimated))
        try:
            yield
        finally:
            entry.settle(entry.spent)
            await entry.settled()

    def _estimate(self, tenant: str, session: str, messages: Sequence[message_pb2.Message]) -> Tokens:
        size = sum(message.ByteSize() for message in messages)
        window = self._windows.tokens(tenant, session)
        return estimate(size, window, is_warm=self._replicas.is_warm(tenant, session))

    def _cost(self, model: str, tokens: Tokens) -> Cost:
        prices = self._settings.limits.prices
        price = price_of(prices, self._model(model)) if prices else None
        return Cost(1, tokens.computed, cost_micros(tokens, price))

    def _model(self, model: str) -> str:
        """The model's own name. Where there is none, the turn finds that out by itself."""
        try:
            return self._replicas.limits(model).name
        except IsthmusError:
            return model
