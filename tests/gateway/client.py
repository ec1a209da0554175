"""A client of the gRPC edge, as small as tests need it."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc.aio
from isthmus.session.v1 import document_pb2, message_pb2, session_pb2, session_service_pb2, turn_pb2
from isthmus.session.v1.session_service_pb2_grpc import SessionServiceStub

from services.errors import IsthmusError, from_rpc_error

if TYPE_CHECKING:
    from isthmus.session.v1.session_service_pb2_grpc import SessionServiceAsyncStub

Event = session_service_pb2.RunTurnResponse
Request = session_service_pb2.RunTurnRequest


def user(text: str, *, pinned: bool = False) -> message_pb2.Message:
    """A message of the user."""
    return message_pb2.Message(role=message_pb2.ROLE_USER, text=text, pinned=pinned)


def turn_request(session: str, text: str, request_id: str = "", **fields: Any) -> Request:
    """A turn with one message of the user."""
    return Request(session=f"sessions/{session}", request_id=request_id, messages=[user(text)], **fields)


class Client:
    """Calls and their errors as IsthmusErrors."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub: SessionServiceAsyncStub = SessionServiceStub(channel)

    async def create(self, session: str, **fields: Any) -> session_pb2.Session:
        """A new session."""
        request = session_service_pb2.CreateSessionRequest(session_id=session, session=session_pb2.Session(**fields))
        return await self.stub.CreateSession(request)

    async def events(self, request: Request) -> list[Event]:
        """All events of a turn."""
        try:
            return [event async for event in self.stub.RunTurn(request)]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def turn(self, request: Request) -> turn_pb2.Turn:
        """The finished turn."""
        return (await self.events(request))[-1].done.turn

    async def outcome(self, request: Request) -> turn_pb2.Turn | IsthmusError:
        """The finished turn, or what it failed with."""
        try:
            return await self.turn(request)
        except IsthmusError as error:
            return error

    async def attached(self, turn: str, starting_after: int = 0) -> list[Event]:
        """A turn's events from a place of its output on."""
        try:
            request = session_service_pb2.AttachTurnRequest(name=turn, starting_after=starting_after)
            return [event async for event in self.stub.AttachTurn(request)]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def get_turn(self, name: str) -> turn_pb2.Turn:
        """A turn as it is stored."""
        return await self.stub.GetTurn(session_service_pb2.GetTurnRequest(name=name))

    async def texts(self, session: str) -> list[str]:
        """The texts in the log, in order."""
        request = session_service_pb2.ListFragmentsRequest(parent=f"sessions/{session}", page_size=1000)
        return [fragment.text for fragment in (await self.stub.ListFragments(request)).fragments]

    async def append(self, session: str, messages: list[message_pb2.Message], request_id: str = "") -> list[int]:
        """Appends messages outside of a turn; their sequence numbers."""
        request = session_service_pb2.AppendMessagesRequest(
            session=f"sessions/{session}", messages=messages, request_id=request_id
        )
        return [fragment.sequence for fragment in (await self.stub.AppendMessages(request)).fragments]

    async def ingest(
        self, session: str, document: str, data: bytes, *, chunk_bytes: int = 65_536
    ) -> document_pb2.Document:
        """Streams a document."""
        return await self.stub.IngestDocument(document_requests(session, document, data, chunk_bytes))


def document_requests(
    session: str, document: str, data: bytes, chunk_bytes: int, *, begin: int = 0
) -> Iterator[session_service_pb2.IngestDocumentRequest]:
    """Header, chunks and end of a document."""
    part = document_pb2.DocumentPart
    yield _ingested(session, part(header=part.Header(document_id=document)))
    for offset in range(begin, len(data), chunk_bytes):
        yield _ingested(session, part(chunk=part.Chunk(offset=offset, data=data[offset : offset + chunk_bytes])))
    yield _ingested(session, part(end=part.End(size_bytes=len(data))))


def _ingested(session: str, part: document_pb2.DocumentPart) -> session_service_pb2.IngestDocumentRequest:
    return session_service_pb2.IngestDocumentRequest(session=f"sessions/{session}", part=part)


@asynccontextmanager
async def connected(target: str) -> AsyncIterator[Client]:
    """A client with a channel of its own."""
    async with grpc.aio.insecure_channel(target) as channel:
        yield Client(channel)


async def drained(call: AsyncIterable[Event]) -> list[Event]:
    """What is left of a turn's events."""
    return [event async for event in call]


def kinds(events: Iterable[Event]) -> list[str]:
    """Which events came, in order."""
    return [event.WhichOneof("event") or "" for event in events]


def text_of(events: Iterable[Event]) -> str:
    """What the deltas say together."""
    return "".join(event.delta.text for event in events)
