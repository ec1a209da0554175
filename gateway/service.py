"""The gRPC edge: requests of session.v1 to the backend and the turn driver, names to ids."""

# ruff: noqa: N802 - methods are named by the contract

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf import empty_pb2
from isthmus.session.v1 import (
    deletion_pb2,
    document_pb2,
    fragment_pb2,
    record_pb2,
    session_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
    turn_pb2,
)

from gateway.backend import Backend
from gateway.limits.rpc import tell
from gateway.names import parse_document, parse_fragment, parse_session, parse_turn
from gateway.tenancy import tenant
from gateway.turn.turns import TurnDriver
from services.errors import InvalidField

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class SessionServicer(session_service_pb2_grpc.SessionServiceServicer):
    """Thin: the server's interceptor has let in and checked each request, and turns IsthmusErrors into their status."""

    def __init__(self, backend: Backend, turns: TurnDriver) -> None:
        self._backend = backend
        self._turns = turns

    async def CreateSession(
        self, request: session_service_pb2.CreateSessionRequest, context: Context
    ) -> session_pb2.Session:
        return await self._backend.create_session(tenant(), request.session_id, request.session)

    async def GetSession(self, request: session_service_pb2.GetSessionRequest, context: Context) -> session_pb2.Session:
        return await self._backend.get_session(tenant(), parse_session(request.name))

    async def ListSessions(
        self, request: session_service_pb2.ListSessionsRequest, context: Context
    ) -> session_service_pb2.ListSessionsResponse:
        return await self._backend.list_sessions(
            tenant(), page_size=request.page_size, page_token=request.page_token, filter_text=request.filter
        )

    async def UpdateSession(
        self, request: session_service_pb2.UpdateSessionRequest, context: Context
    ) -> session_pb2.Session:
        session = parse_session(request.session.name, "session.name")
        return await self._backend.update_session(tenant(), session, request.session, request.update_mask.paths)

    async def DeleteSession(
        self, request: session_service_pb2.DeleteSessionRequest, context: Context
    ) -> deletion_pb2.DeletionReceipt:
        return await self._backend.delete_session(tenant(), parse_session(request.name), etag=request.etag)

    async def ForkSession(
        self, request: session_service_pb2.ForkSessionRequest, context: Context
    ) -> session_pb2.Session:
        return await self._backend.fork_session(
            tenant(), parse_session(request.name), request.session_id, turn=request.turn, session=request.session
        )

    async def ExportSession(
        self, request: session_service_pb2.ExportSessionRequest, context: Context
    ) -> AsyncGenerator[session_service_pb2.ExportSessionResponse, None]:
        async with aclosing(self._backend.export_session(tenant(), parse_session(request.name))) as answers:
            async for answer in answers:
                yield answer

    async def ImportSession(
        self, requests: AsyncIterator[session_service_pb2.ImportSessionRequest], context: Context
    ) -> session_pb2.Session:
        first = await anext(requests, None)
        if first is None:
            raise InvalidField("records", "the stream ended before its first message, expected a header")
        session = first.session_id or parse_session(first.records[0].header.session.name, "records[0].header.session")
        return await self._backend.import_session(tenant(), session, _pages(first, requests))

    async def RunTurn(
        self, request: session_service_pb2.RunTurnRequest, context: Context
    ) -> AsyncGenerator[session_service_pb2.RunTurnResponse, None]:
        async with aclosing(self._turns.run(tenant(), request, received_at=time.monotonic())) as events:
            async for event in events:
                if event.HasField("accepted"):
                    await tell(context)
                yield event

    async def AttachTurn(
        self, request: session_service_pb2.AttachTurnRequest, context: Context
    ) -> AsyncGenerator[session_service_pb2.RunTurnResponse, None]:
        async with aclosing(self._turns.attach(tenant(), request, received_at=time.monotonic())) as events:
            async for event in events:
                yield event

    async def GetTurn(self, request: session_service_pb2.GetTurnRequest, context: Context) -> turn_pb2.Turn:
        turn = parse_turn(request.name)
        return await self._backend.get_turn(tenant(), turn.session, turn.number)

    async def ListTurns(
        self, request: session_service_pb2.ListTurnsRequest, context: Context
    ) -> session_service_pb2.ListTurnsResponse:
        session = parse_session(request.parent, "parent")
        return await self._backend.list_turns(
            tenant(), session, page_size=request.page_size, page_token=request.page_token
        )

    async def CancelTurn(self, request: session_service_pb2.CancelTurnRequest, context: Context) -> turn_pb2.Turn:
        turn = parse_turn(request.name)
        return await self._backend.cancel_turn(tenant(), turn.session, turn.number)

    async def AppendMessages(
        self, request: session_service_pb2.AppendMessagesRequest, context: Context
    ) -> session_service_pb2.AppendMessagesResponse:
        session = parse_session(request.session, "session")
        return await self._backend.append_messages(tenant(), session, request.messages, request_id=request.request_id)

    async def ListFragments(
        self, request: session_service_pb2.ListFragmentsRequest, context: Context
    ) -> session_service_pb2.ListFragmentsResponse:
        return await self._backend.list_fragments(
            tenant(),
            parse_session(request.parent, "parent"),
            page_size=request.page_size,
            page_token=request.page_token,
            descending=request.descending,
            start_sequence=request.start_sequence,
        )

    async def GetFragment(
        self, request: session_service_pb2.GetFragmentRequest, context: Context
    ) -> fragment_pb2.Fragment:
        fragment = parse_fragment(request.name)
        return await self._backend.get_fragment(tenant(), fragment.session, fragment.number)

    async def DeleteFragment(
        self, request: session_service_pb2.DeleteFragmentRequest, context: Context
    ) -> empty_pb2.Empty:
        fragment = parse_fragment(request.name)
        await self._backend.delete_fragment(tenant(), fragment.session, fragment.number)
        return empty_pb2.Empty()

    async def IngestDocument(
        self, requests: AsyncIterator[session_service_pb2.IngestDocumentRequest], context: Context
    ) -> document_pb2.Document:
        first = await anext(requests, None)
        if first is None:
            raise InvalidField("part", "the stream ended before its first message, expected a header")
        session = parse_session(first.session, "session")
        return await self._backend.write_document(tenant(), session, _parts(first, requests))

    async def GetDocument(
        self, request: session_service_pb2.GetDocumentRequest, context: Context
    ) -> document_pb2.Document:
        document = parse_document(request.name)
        return await self._backend.get_document(tenant(), document.session, document.document)

    async def PreviewWindow(
        self, request: session_service_pb2.PreviewWindowRequest, context: Context
    ) -> session_service_pb2.PreviewWindowResponse:
        return await self._backend.preview_window(tenant(), parse_session(request.session, "session"))


async def _pages(
    first: session_service_pb2.ImportSessionRequest,
    rest: AsyncIterator[session_service_pb2.ImportSessionRequest],
) -> AsyncIterator[Sequence[record_pb2.SessionRecord]]:
    yield first.records
    async for request in rest:
        yield request.records


async def _parts(
    first: session_service_pb2.IngestDocumentRequest,
    rest: AsyncIterator[session_service_pb2.IngestDocumentRequest],
) -> AsyncIterator[document_pb2.DocumentPart]:
    yield first.part
    async for request in rest:
        yield request.part
