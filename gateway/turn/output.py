"""What a turn says: written ahead where every gateway can read it, then told to its caller."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

from isthmus.context.v1 import context_service_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.turn.appends import OutputAppends
from gateway.turn.calls import Errand
from gateway.turn.driven import Stop
from services.config import GatewaySettings
from services.errors import IsthmusError

Event = session_service_pb2.RunTurnResponse
Piece = context_service_pb2.OutputPiece


class Output:
    """The events of a turn, from the task that makes them to the caller who reads them. One reader.

    `piece` is the number of the last piece told: each is told once, in order, whoever says it. `outlives`: what is done
    for the reader goes on without him. `see` gets every event, whether or not there is a reader, who gets hops only if
    he `wants_hops`.
    """

    def __init__(
        self,
        after_piece: int = 0,
        *,
        outlives: bool = False,
        wants_hops: bool = True,
        see: Callable[[Event], None] | None = None,
    ) -> None:
        self.piece = after_piece
        self.outlives = outlives
        self.is_left = False
        self._wants_hops = wants_hops
        self._see = see
        self._events: deque[Event] = deque()
        self._moved = asyncio.Event()
        self._is_ended = False
        self._error: Exception | None = None

    def tell(self, event: Event) -> None:
        """For the reader, if there still is one."""
        if self._see is not None:
            self._see(event)
        if not self.is_left and (self._wants_hops or not event.HasField("hop")):
            self._events.append(event)
            self._moved.set()

    def tell_piece(self, number: int, piece: Piece) -> None:
        """A piece of the reply, unless it was told before."""
        if number > self.piece:
            self.piece = number
            self.tell(Event(delta=Event.Delta(text=piece.text, logprobs=piece.logprobs, piece=number)))

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes; the error, if any, is raised to the reader behind what was told."""
        self._is_ended, self._error = True, error
        self._moved.set()

    def leave(self) -> None:
        """The reader has gone."""
        self.is_left = True
        self._events.clear()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Everything told, as it comes."""
        while True:
            while self._events:
                yield self._events.popleft()
            if self._is_ended:
                if self._error is not None:
                    raise self._error
                return
            self._moved.clear()
            await self._moved.wait()


class OutputWriter:
    """Writes a reply to the turn's output, and tells each piece once it is there.

    So no reader has ever read what another driver would not go on from. What comes in while one piece is on its way is
    the next one; `gateway.output_piece_ms_min` lie between two.
    """

    def __init__(
        self,
        appends: OutputAppends,
        errand: Errand,
        lease: context_service_pb2.TurnLease,
        output: Output,
        stop: Stop,
        settings: GatewaySettings,
        said: Sequence[Piece] = (),
    ) -> None:
        """`said` is what the turn's output has already."""
        self._appends = appends
        self._errand = errand
        self._lease = lease
        self._output = output
        self._stop = stop
        self._settings = settings
        self._written = list(said)
        self._waiting: deque[Piece] = deque()
        self._moved = asyncio.Event()
        self._is_finished = False
        self._beginning: asyncio.Handle | None = None
        self._task: asyncio.Task[None] | None = None
        # Pieces that the output never had, with their numbers: they go with the commit, and are told after it.
        self.rest: list[tuple[int, Piece]] = []

    @property
    def piece_bytes(self) -> list[int]:
        """UTF-8 bytes of each piece of the reply."""
        return [len(piece.text.encode()) for piece in self._written]

    def put(self, piece: Piece) -> None:
        """More of the reply; what has no text and no logprobs waits for what has."""
        self._waiting.append(piece)
        self._moved.set()
        if self._beginning is None:
            # Not before its caller waits for more: a reply that is whole by then is not written ahead.
            self._beginning = asyncio.get_running_loop().call_soon(self._begin)

    async def finish(self) -> None:
        """The reply is whole. Waits for what is on its way; what has not begun its way becomes `rest`."""
        self._is_finished = True
        self._moved.set()
        if self._task is not None:
            await self._task
        elif self._beginning is not None:
            self._beginning.cancel()
        while any(map(_is_heard, self._waiting)):
            self._written.append(self._cut())
            self.rest.append((len(self._written), self._written[-1]))

    def close(self) -> None:
        """Writes no more."""
        if self._beginning is not None:
            self._beginning.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._write(), name="write output")

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        if self._errand.is_streamed:
            pace, due = self._settings.output_piece_ms_min / 1000, loop.time()
        else:
            pace = self._settings.output_unread_ms / 1000
            due = loop.time() + pace
        while not self._is_finished:
            if not any(map(_is_heard, self._waiting)):
                self._moved.clear()
                await self._moved.wait()
            elif (early := due - loop.time()) > 0:
                await self._finished_within(early)
            else:
                due = loop.time() + pace
                await self._append(self._cut())

    async def _finished_within(self, seconds: float) -> None:
        """Waits so long, but not beyond the reply's end."""
        try:
            async with asyncio.timeout(seconds):
                while not self._is_finished:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return

    async def _append(self, piece: Piece) -> None:
        self._written.append(piece)
        first = last = len(self._written)
        try:
            while True:
                count = await self._appends.append(self._errand, self._entry(first), self._errand.until)
                if count >= last:
                    break
                # What a failover of Valkey has lost is written again.
                first = min(count, last - 1) + 1
        except IsthmusError as error:
            self._stop.pull(error)
            raise
        self._output.tell_piece(last, piece)

    def _entry(self, first: int) -> context_service_pb2.AppendOutputRequest.Entry:
        return context_service_pb2.AppendOutputRequest.Entry(
            key=self._errand.key, lease=self._lease, first_piece=first, pieces=self._written[first - 1 :]
        )

    def _cut(self) -> Piece:
        """The next piece: what waits, as far as it is of one tokenizer and within `gateway.output_piece_bytes_max`."""
        piece = Piece(tokenizer=self._waiting[0].tokenizer)
        texts: list[str] = []
        size = 0
        while self._waiting and self._waiting[0].tokenizer == piece.tokenizer:
            size += self._waiting[0].ByteSize()
            if texts and size > self._settings.output_piece_bytes_max:
                break
            part = self._waiting.popleft()
            texts.append(part.text)
            piece.logprobs.extend(part.logprobs)
            piece.token_ids.extend(part.token_ids)
        piece.text = "".join(texts)
        return piece


def _is_heard(piece: Piece) -> bool:
    return bool(piece.text or piece.logprobs)


def sourced(cache: turn_pb2.CacheUse | None) -> Event:
    """Where a reply comes from: a cached answer, or None where it is generated."""
    return Event(source=Event.Source(cache=cache))


def pieces_of(text: str, piece_bytes: Sequence[int]) -> Iterator[Piece]:
    """A reply in the pieces that it was streamed in; in one, where it is no longer the text that it was. Pure."""
    data = text.encode()
    if sum(piece_bytes) != len(data):
        if text:
            yield Piece(text=text)
        return
    begin = 0
    for size in piece_bytes:
        yield Piece(text=data[begin : begin + size].decode())
        begin += size
