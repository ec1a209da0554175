"""The benchmark's own client: what a generated client does and no more, so that what is measured is the mesh."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator
from types import TracebackType
from typing import Final, Self

import grpc
from isthmus.session.v1 import (
    document_pb2,
    message_pb2,
    session_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
    turn_pb2,
)

from services.cli.bench.statistics import TurnSample, sample

CHUNK_BYTES: Final = 256 << 10
_CALL_S_MAX: Final = 60.0
_TURN_S_MAX: Final = 300.0
# Of the contract's pages the longest.
_FRAGMENTS_COUNT: Final = 1_000
# The stored receipt ends where the commit begins; the commit's hops come as events.
COMMIT: Final = "commit"
_INGEST_S_MAX: Final = 900.0
_MESSAGE_BYTES_MAX: Final = 16 << 20


class BenchClient:
    """One connection to a gateway. Errors are grpc's own."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(
            target,
            options=[
                ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
                # Channels to the same target would share one connection.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self._stub = session_service_pb2_grpc.SessionServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def create(self, session: str) -> None:
        """Makes the session."""
        await self._stub.CreateSession(session_service_pb2.CreateSessionRequest(session_id=session))

    async def get(self, session: str) -> session_pb2.Session:
        """The session as it stands."""
        return await self._stub.GetSession(session_service_pb2.GetSessionRequest(name=f"sessions/{session}"))

    async def page(self, token: str, size: int) -> session_service_pb2.ListSessionsResponse:
        """Sessions in the order of their ids."""
        request = session_service_pb2.ListSessionsRequest(page_size=size, page_token=token)
        return await self._stub.ListSessions(request, timeout=_CALL_S_MAX)

    async def append(self, session: str, text: str, request_id: str) -> None:
        """Appends a message outside a turn, once by its id."""
        message = message_pb2.Message(role=message_pb2.ROLE_USER, text=text)
        request = session_service_pb2.AppendMessagesRequest(
            session=f"sessions/{session}", messages=[message], request_id=request_id
        )
        await self._stub.AppendMessages(request, timeout=_CALL_S_MAX)

    async def appended(self, session: str) -> str:
        """The text that was appended outside turns, as far as the log's first page has it."""
        request = session_service_pb2.ListFragmentsRequest(parent=f"sessions/{session}", page_size=_FRAGMENTS_COUNT)
        page = await self._stub.ListFragments(request, timeout=_CALL_S_MAX)
        return "".join(fragment.text for fragment in page.fragments if not fragment.turn)

    async def delete(self, session: str) -> None:
        """Erases the session."""
        await self._stub.DeleteSession(session_service_pb2.DeleteSessionRequest(name=f"sessions/{session}"))

    async def ingest(self, session: str, document: str, chunks: AsyncIterable[bytes]) -> document_pb2.Document:
        """Streams a document into the session, whole once this returns."""
        return await self._stub.IngestDocument(_requests(session, document, chunks), timeout=_INGEST_S_MAX)

    async def turn(self, session: str, text: str) -> TurnSample:
        """Runs a turn and measures it, from before the request is serialised until the stream has ended."""
        started = time.perf_counter()
        message = message_pb2.Message(role=message_pb2.ROLE_USER, text=text)
        request = session_service_pb2.RunTurnRequest(session=f"sessions/{session}", messages=[message])
        size = request.ByteSize()
        done: turn_pb2.Turn | None = None
        commit: list[turn_pb2.Hop] = []
        async for response in self._stub.RunTurn(request, timeout=_TURN_S_MAX):
            size += response.ByteSize()
            if response.hop.operation == COMMIT:
                commit.append(response.hop)
            elif response.HasField("done"):
                done = response.done.turn
        wall_ms = (time.perf_counter() - started) * 1_000
        if done is None or done.state != turn_pb2.Turn.STATE_DONE:
            raise RuntimeError(f"sessions/{session}: the turn's stream ended without a reply that is done")
        return sample(wall_ms, size, [*done.receipt.hops, *commit], done.receipt.tokens)


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    """The data in chunks."""
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


async def _requests(
    session: str, document: str, chunks: AsyncIterable[bytes]
) -> AsyncIterator[session_service_pb2.IngestDocumentRequest]:
    header = document_pb2.DocumentPart.Header(document_id=document, display_name=document)
    opening = document_pb2.DocumentPart(header=header)
    yield session_service_pb2.IngestDocumentRequest(session=f"sessions/{session}", part=opening)
    offset = 0
    async for data in chunks:
        chunk = document_pb2.DocumentPart.Chunk(offset=offset, data=data)
        yield session_service_pb2.IngestDocumentRequest(part=document_pb2.DocumentPart(chunk=chunk))
        offset += len(data)
    end = document_pb2.DocumentPart.End(size_bytes=offset)
    yield session_service_pb2.IngestDocumentRequest(part=document_pb2.DocumentPart(end=end))
