"""What the edges need of the store, by tenant and plain ids, in the messages of session.v1."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import grpc.aio
from google.protobuf import field_mask_pb2
from isthmus.context.v1 import context_service_pb2 as store
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import (
    deletion_pb2,
    document_pb2,
    fragment_pb2,
    message_pb2,
    record_pb2,
    session_pb2,
    session_service_pb2,
    turn_pb2,
)

from gateway.bounds import check_messages
from gateway.caches.caches import Caches
from gateway.forgetting import Forgetting
from gateway.identity import messages_digest, new_id
from gateway.models.embedding import Embedded, Embedding
from gateway.models.replicas import Replicas
from gateway.relay import Relay
from gateway.shards import Shards
from gateway.turn.budget import divide
from gateway.turn.driven import DrivenTurns
from services.config import Settings
from services.errors import IsthmusError, NotFound, from_rpc_error
from services.rpc.deadlines import remaining_s

# What tells one making of a session from another.
_MARK_BYTES: Final = 8


class Backend:
    """Sessions, fragments, turns and documents of any tenant, whichever shard holds them.

    Ids are plain (`s1`, not `sessions/s1`). Every error is an IsthmusError. A shard that goes away is waited for within
    the caller's deadline (`rpc.deadline_ms_default` if there is none), where repeating the call changes nothing.
    """

    def __init__(
        self,
        shards: Shards,
        replicas: Replicas,
        driven: DrivenTurns,
        forgetting: Forgetting,
        settings: Settings,
        caches: Caches,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._shards = shards
        self._replicas = replicas
        self._driven = driven
        self._forgetting = forgetting
        self._embedding = Embedding(replicas, settings.gateway)
        self._settings = settings
        # What else is kept of sessions, and goes with them.
        self.erasing: list[Callable[[str, str], Awaitable[None]]] = []
        self._caches = caches
        self._random_bytes = random_bytes

    async def create_session(
        self, tenant: str, session_id: str, session: session_pb2.Session | None = None
    ) -> session_pb2.Session:
        """A new session, of a chosen id if `session_id` is empty; ALREADY_EXISTS if there is one of this id."""
        session_id = session_id or new_id(self._random_bytes, "session")
        request = store.CreateSessionRequest(
            tenant=tenant, session_id=session_id, session=session, create_id=self._random_bytes(_MARK_BYTES)
        )
        until = self._until()
        return await self._shards.call(lambda stub: stub.CreateSession, tenant, session_id, request, until=until)

    async def get_session(self, tenant: str, session_id: str) -> session_pb2.Session:
        """The session with its sizes."""
        request = store.GetSessionRequest(key=_key(tenant, session_id))
        return await self._shards.call(lambda stub: stub.GetSession, tenant, session_id, request, until=self._until())

    async def list_sessions(
        self, tenant: str, *, page_size: int = 0, page_token: str = "", filter_text: str = "", collection: str = ""
    ) -> session_service_pb2.ListSessionsResponse:
        """A page of the tenant's sessions by id, of those that the filter takes; a page_size of 0 takes 100.

        `collection` lists one of the mesh's own: `library`, `file`.
        """
        request = store.ListSessionsRequest(
            tenant=tenant, page_size=page_size, page_token=page_token, filter=filter_text, collection=collection
        )
        page = await self._shards.call(lambda stub: stub.ListSessions, tenant, "", request, until=self._until())
        return session_service_pb2.ListSessionsResponse(sessions=page.sessions, next_page_token=page.next_page_token)

    async def update_session(
        self, tenant: str, session_id: str, session: session_pb2.Session, paths: Sequence[str] = ()
    ) -> session_pb2.Session:
        """Changes the fields in `paths`, or all that are set; ETAG_MISMATCH if `session.etag` is set and stale."""
        mask = field_mask_pb2.FieldMask(paths=paths)
        request = store.UpdateSessionRequest(key=_key(tenant, session_id), session=session, update_mask=mask)
        # A second update with the etag of before the first would be told that the etag is stale.
        call = self._shards.call_once if session.etag else self._shards.call
        return await call(lambda stub: stub.UpdateSession, tenant, session_id, request, until=self._until())

    async def delete_session(self, tenant: str, session_id: str, *, etag: str = "") -> deletion_pb2.DeletionReceipt:
        """Erases the session, with the copies that any member has; ETAG_MISMATCH if an etag is given and stale."""
        request = store.DeleteSessionRequest(key=_key(tenant, session_id), etag=etag)
        until = self._until()
        # First, so that a deletion that is tried again finds them, too.
        await self._caches.forget(tenant, session_id)
        receipt = await self._shards.call_once(
            lambda stub: stub.DeleteSession, tenant, session_id, request, until=until
        )
        await self._forgetting.forget(tenant, receipt)
        for erase in self.erasing:
            await erase(tenant, session_id)
        return receipt

    async def fork_session(
        self, tenant: str, session_id: str, fork_id: str, *, turn: int = 0, session: session_pb2.Session | None = None
    ) -> session_pb2.Session:
        """A new session, of a chosen id if `fork_id` is empty, that begins as this one was after a turn."""
        request = store.ForkSessionRequest(
            key=_key(tenant, session_id),
            turn=turn,
            session_id=fork_id or new_id(self._random_bytes, "session"),
            session=session,
            fork_id=self._random_bytes(_MARK_BYTES),
        )
        return await self._shards.call(lambda stub: stub.ForkSession, tenant, session_id, request, until=self._until())

    async def export_session(
        self, tenant: str, session_id: str
    ) -> AsyncGenerator[session_service_pb2.ExportSessionResponse, None]:
        """The session's records as they come. A shard that goes away ends the stream: begin anew."""
        stub = await self._shards.reachable(tenant, session_id, until=self._until())
        call = stub.ExportSession(store.ExportSessionRequest(key=_key(tenant, session_id)), timeout=remaining_s())
        try:
            async for answer in call:
                yield session_service_pb2.ExportSessionResponse(records=answer.records)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()

    async def import_session(
        self, tenant: str, session_id: str, pages: AsyncIterator[Sequence[record_pb2.SessionRecord]]
    ) -> session_pb2.Session:
        """Makes a session of an export's records; a shard that goes away ends the stream, and nothing is left."""
        stub = await self._shards.reachable(tenant, session_id, until=self._until())
        relay = Relay(
            _key(tenant, session_id),
            pages,
            lambda key, page: store.ImportSessionRequest(key=key, records=page),
        )
        return await relay.run(lambda requests: stub.ImportSession(requests, timeout=remaining_s()))

    async def append_messages(
        self, tenant: str, session_id: str, messages: Sequence[message_pb2.Message], *, request_id: str = ""
    ) -> session_service_pb2.AppendMessagesResponse:
        """Appends messages outside of a turn, all or none, once for each request_id; the fragments without text."""
        check_messages(messages)
        request = store.AppendMessagesRequest(
            key=_key(tenant, session_id),
            messages=messages,
            request_id=request_id or new_id(self._random_bytes, "request"),
            body_digest=messages_digest(messages),
        )
        until = self._until()
        answer = await self._shards.call(lambda stub: stub.AppendMessages, tenant, session_id, request, until=until)
        return session_service_pb2.AppendMessagesResponse(fragments=answer.fragments)

    async def list_fragments(
        self,
        tenant: str,
        session_id: str,
        *,
        page_size: int = 0,
        page_token: str = "",
        descending: bool = False,
        start_sequence: int = 0,
    ) -> session_service_pb2.ListFragmentsResponse:
        """A page of the log; a page_size of 0 takes 100."""
        request = store.ListFragmentsRequest(
            key=_key(tenant, session_id),
            page_size=page_size,
            page_token=page_token,
            descending=descending,
            start_sequence=start_sequence,
        )
        until = self._until()
        page = await self._shards.call(lambda stub: stub.ListFragments, tenant, session_id, request, until=until)
        return session_service_pb2.ListFragmentsResponse(fragments=page.fragments, next_page_token=page.next_page_token)

    async def get_fragment(self, tenant: str, session_id: str, sequence: int) -> fragment_pb2.Fragment:
        """One fragment with its text."""
        page = await self.list_fragments(tenant, session_id, page_size=1, start_sequence=sequence)
        for fragment in page.fragments:
            if fragment.sequence == sequence:
                return fragment
        raise NotFound(f"sessions/{session_id}/fragments/{sequence}")

    async def delete_fragment(self, tenant: str, session_id: str, sequence: int) -> None:
        """Erases a fragment's content; its sequence number stays used."""
        request = store.DeleteFragmentRequest(key=_key(tenant, session_id), sequence=sequence)
        until = self._until()
        await self._caches.forget(tenant, session_id)
        await self._shards.call(lambda stub: stub.DeleteFragment, tenant, session_id, request, until=until)

    async def get_turn(self, tenant: str, session_id: str, number: int) -> turn_pb2.Turn:
        """A turn with its text."""
        request = store.GetTurnRequest(key=_key(tenant, session_id), turn=number)
        return await self._shards.call(lambda stub: stub.GetTurn, tenant, session_id, request, until=self._until())

    async def list_turns(
        self, tenant: str, session_id: str, *, page_size: int = 0, page_token: str = ""
    ) -> session_service_pb2.ListTurnsResponse:
        """A page of turns by number, without their text; a page_size of 0 takes 100."""
        request = store.ListTurnsRequest(key=_key(tenant, session_id), page_size=page_size, page_token=page_token)
        until = self._until()
        page = await self._shards.call(lambda stub: stub.ListTurns, tenant, session_id, request, until=until)
        return session_service_pb2.ListTurnsResponse(turns=page.turns, next_page_token=page.next_page_token)

    async def cancel_turn(self, tenant: str, session_id: str, number: int) -> turn_pb2.Turn:
        """Cancels an open turn: at once if this gateway drives it, else when its driver renews the lease."""
        request = store.CancelTurnRequest(key=_key(tenant, session_id), turn=number)
        until = self._until()
        turn = await self._shards.call(lambda stub: stub.CancelTurn, tenant, session_id, request, until=until)
        if turn.state == turn_pb2.Turn.STATE_CANCELLED:
            reason = IsthmusError(errors_pb2.ERROR_REASON_TURN_CANCELLED, f"{turn.name} was cancelled")
            self._driven.stop((tenant, session_id, number), reason)
        return turn

    async def get_document(self, tenant: str, session_id: str, document_id: str) -> document_pb2.Document:
        """How far a document has come."""
        request = store.GetDocumentRequest(key=_key(tenant, session_id), document=document_id)
        return await self._shards.call(lambda stub: stub.GetDocument, tenant, session_id, request, until=self._until())

    async def write_document(
        self, tenant: str, session_id: str, parts: AsyncIterator[document_pb2.DocumentPart]
    ) -> document_pb2.Document:
        """Streams a document to its shard: the next part is taken when the shard has room for it, and none is kept.

        A shard that goes away ends the stream with UPSTREAM_UNAVAILABLE: resume at `committed_bytes`.
        """
        stub = await self._shards.reachable(tenant, session_id, until=self._until())
        relay = Relay(_key(tenant, session_id), parts, lambda key, part: store.WriteDocumentRequest(key=key, part=part))
        return await relay.run(lambda requests: stub.WriteDocument(requests, timeout=remaining_s()))

    async def preview_window(self, tenant: str, session_id: str) -> session_service_pb2.PreviewWindowResponse:
        """The window that the next turn would start from, for the default model and its default reply."""
        budget = divide(self._replicas.limits(""), message_pb2.SamplingParams())
        request = store.PreviewWindowRequest(key=_key(tenant, session_id), window_tokens_max=budget.window_tokens_max)
        until = self._until()
        window = await self._shards.call(lambda stub: stub.PreviewWindow, tenant, session_id, request, until=until)
        return session_service_pb2.PreviewWindowResponse(
            window=window.report, tokens=window.tokens, tokens_max=window.tokens_max
        )

    async def embed(self, texts: Sequence[str], model: str, dimensions: int | None = None) -> Embedded:
        """A unit vector for each text, by a model as `Embedding.embed` finds it."""
        return await self._embedding.embed(texts, model, self._until(), dimensions)

    def models(self) -> list[str]:
        """Names of the models that some replica serves now, those that make vectors among them, sorted."""
        return sorted({limits.name for limits in self._replicas.models()} | self._replicas.embedding_models())

    def _until(self) -> float:
        left = remaining_s()
        return time.monotonic() + (self._settings.rpc.deadline_ms_default / 1000 if left is None else left)


def _key(tenant: str, session_id: str) -> store.SessionKey:
    return store.SessionKey(tenant=tenant, session=session_id)
