"""Turns before they run: their callers' limits, then the fair line; and behind them, what they have cost."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.limits.estimate import Windows, counted, estimate, tokens_of_bytes
from gateway.limits.limiter import Limiter, Ticket
from gateway.limits.metrics import LimitMetrics
from gateway.limits.queue import TurnQueue
from gateway.models.replicas import Replicas
from gateway.turn.receipt import GATEWAY_INFERENCE
from services.config import GatewaySettings
from services.errors import IsthmusError
from services.limits.money import Tokens, cost_micros, price_of
from services.limits.standing import Cost
from services.rpc.deadlines import remaining_s

Event = session_service_pb2.RunTurnResponse


class Admission:
    """Lets turns in, at most `gateway.turns_count_max` at once."""

    def __init__(self, limiter: Limiter, replicas: Replicas, settings: GatewaySettings, metrics: LimitMetrics) -> None:
        self.limiter = limiter
        self.metrics = metrics
        self._replicas = replicas
        self._settings = settings
        self._queue = TurnQueue(settings.turns_count_max, settings.limits, metrics)
        self._windows = Windows(settings.limits.windows_count_max)

    @asynccontextmanager
    async def admitted(
        self, tenant: str, request: session_service_pb2.RunTurnRequest, received_at: float
    ) -> AsyncIterator[Admitted]:
        """A turn that may run now. Pass its events through `Admitted.metered`.

        Raises OVERLOADED where the line refuses it, and what Limiter raises. The line is asked before the limits are:
        who is refused for the load costs no trip and pays nothing.
        """
        until = self._until(received_at)
        session = request.session.removeprefix("sessions/")
        tokens = self._estimate(tenant, session, request)
        self._queue.check(tenant, tokens.input, until)
        async with (
            self._held(tenant, request.user, request.model, tokens, session) as turn,
            self._queue.place(tenant, tokens.input, until),
        ):
            yield turn

    def shed(self, tenant: str) -> None:
        """Refuses at once what could be no turn now, whatever it asks for; raises as `admitted` does."""
        self.limiter.check(self.limiter.callers(tenant))
        self._queue.check(tenant, 0, self._until(time.monotonic()))

    @asynccontextmanager
    async def embedding(self, tenant: str, user: str, model: str, text_bytes: int) -> AsyncIterator[Admitted]:
        """Texts that may be made vectors now; `Admitted.settle` says how many tokens they were. Raises as Limiter."""
        async with self._held(tenant, user, model, Tokens(tokens_of_bytes(text_bytes))) as held:
            yield held

    @asynccontextmanager
    async def _held(
        self, tenant: str, user: str, model: str, tokens: Tokens, session: str = ""
    ) -> AsyncIterator[Admitted]:
        ticket, callers = None, self.limiter.callers(tenant, user)
        if callers:
            ticket = await self.limiter.hold(callers, self._cost(model, tokens))
        admitted = Admitted(self, ticket, tenant, session, model, tokens)
        try:
            yield admitted
        finally:
            await admitted.settle(admitted.spent)

    def _estimate(self, tenant: str, session: str, request: session_service_pb2.RunTurnRequest) -> Tokens:
        size = sum(message.ByteSize() for message in request.messages)
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

    def _until(self, received_at: float) -> float:
        until = received_at + self._settings.turn_deadline_ms / 1000
        left = remaining_s()
        return until if left is None else min(until, time.monotonic() + left)

    async def settled(self, ticket: Ticket, model: str, spent: Tokens) -> None:
        """A ticket's cost is known."""
        await self.limiter.settle(ticket, self._cost(model, spent))

    def seen(self, tenant: str, session: str, receipt: turn_pb2.Receipt) -> None:
        """A turn of a session has ended."""
        self._windows.seen(tenant, session, receipt.tokens)


class Admitted:
    """A turn, or texts, that were let in."""

    def __init__(
        self, admission: Admission, ticket: Ticket | None, tenant: str, session: str, model: str, estimated: Tokens
    ) -> None:
        self._admission = admission
        self._ticket = ticket
        self._tenant = tenant
        self._session = session
        self._model = model
        self._estimated = estimated
        self._is_generating = False
        self._output_bytes = 0
        self._receipt: turn_pb2.Receipt | None = None

    @property
    def spent(self) -> Tokens:
        """What is known to have been computed: by the receipt, or else by how far the turn has come.

        Nothing where another call drives the turn: that one pays.
        """
        if not self._is_generating:
            return Tokens()
        if self._receipt is not None:
            return counted(self._receipt.tokens)
        output = tokens_of_bytes(self._output_bytes) if self._output_bytes else 0
        return Tokens(self._estimated.input, self._estimated.cached, output)

    async def metered(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """The turn's events. It is settled before its client reads `done`: the next one finds its place free."""
        async with aclosing(events):
            async for event in events:
                self._see(event)
                if event.HasField("done"):
                    await self.settle(self.spent)
                yield event

    async def settle(self, spent: Tokens) -> None:
        """What it has cost; once."""
        if self._ticket is not None:
            ticket, self._ticket = self._ticket, None
            await self._admission.settled(ticket, self._model, spent)

    def _see(self, event: Event) -> None:
        match event.WhichOneof("event"):
            case "hop":
                self._is_generating |= event.hop.name == GATEWAY_INFERENCE
            case "delta":
                self._output_bytes += len(event.delta.text.encode())
            case "done":
                self._receipt = event.done.turn.receipt
                self._admission.seen(self._tenant, self._session, self._receipt)
