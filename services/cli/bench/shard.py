"""A shard's own client for `isthmus bench store`: the store's contract, without a gateway in between."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import grpc
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import context_service_pb2_grpc, window_pb2
from isthmus.session.v1 import document_pb2, message_pb2, turn_pb2

from services.cli.bench.client import pieces
from services.config import RpcSettings
from services.rpc import redirects
from services.rpc.channels import channel_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from isthmus.context.v1.context_service_pb2_grpc import ContextServiceAsyncStub

# More than any window here: an epoch never ends.
_WINDOW_TOKENS_MAX: Final = 1 << 40
_LEASE_MS: Final = 30_000
_CALL_S_MAX: Final = 300.0
_DIGEST_BYTES: Final = 16


class ShardClient:
    """One channel to a shard, which serves whatever the ring says. Errors are grpc's own."""

    def __init__(self, target: str, tenant: str) -> None:
        self._tenant = tenant
        # As a replica's own channel to a shard.
        rpc = RpcSettings()
        self._channel = grpc.aio.insecure_channel(target, options=channel_options(rpc, rpc.message_bytes_max, ()))
        self._stub: ContextServiceAsyncStub = context_service_pb2_grpc.ContextServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    def _key(self, session: str) -> api.SessionKey:
        return api.SessionKey(tenant=self._tenant, session=session)

    async def create(self, session: str) -> None:
        """Makes the session."""
        request = api.CreateSessionRequest(tenant=self._tenant, session_id=session)
        await self._stub.CreateSession(request, metadata=redirects.METADATA, timeout=_CALL_S_MAX)

    async def fill(self, session: str, data: bytes) -> None:
        """Writes the text as a document."""
        call = self._stub.WriteDocument(self._parts(session, data), metadata=redirects.METADATA, timeout=_CALL_S_MAX)
        await call

    async def _parts(self, session: str, data: bytes) -> AsyncIterator[api.WriteDocumentRequest]:
        header = document_pb2.DocumentPart.Header(document_id="history", display_name="history")
        yield api.WriteDocumentRequest(key=self._key(session), part=document_pb2.DocumentPart(header=header))
        offset = 0
        async for chunk in pieces(data):
            part = document_pb2.DocumentPart.Chunk(offset=offset, data=chunk)
            yield api.WriteDocumentRequest(part=document_pb2.DocumentPart(chunk=part))
            offset += len(chunk)
        end = document_pb2.DocumentPart.End(size_bytes=offset)
        yield api.WriteDocumentRequest(part=document_pb2.DocumentPart(end=end))

    async def append(self, session: str, message: message_pb2.Message) -> None:
        """Appends a message outside a turn."""
        request = api.AppendMessagesRequest(
            key=self._key(session),
            messages=[message],
            request_id=secrets.token_hex(8),
            body_digest=bytes(_DIGEST_BYTES),
        )
        await self._stub.AppendMessages(request, metadata=redirects.METADATA, timeout=_CALL_S_MAX)

    async def turn(self, session: str, text: str, reply: str) -> tuple[float, window_pb2.Manifest]:
        """A whole turn: the milliseconds from OpenTurn to the manifest, and the manifest."""
        request = api.OpenTurnRequest(
            key=self._key(session),
            request_id=secrets.token_hex(8),
            body_digest=bytes(_DIGEST_BYTES),
            driver=secrets.token_hex(8),
            messages=[message_pb2.Message(role=message_pb2.ROLE_USER, text=text)],
            model="bench",
            window_tokens_max=_WINDOW_TOKENS_MAX,
        )
        request.lease.FromMilliseconds(_LEASE_MS)
        started = time.perf_counter()
        opened = await self._stub.OpenTurn(request, metadata=redirects.METADATA, timeout=_CALL_S_MAX)
        ms = (time.perf_counter() - started) * 1_000
        turn = opened.turn
        lease = api.TurnLease(turn=turn.number, attempt=turn.attempt, incarnation=opened.incarnation)
        commit = api.CommitTurnRequest(
            key=self._key(session), lease=lease, output_text=reply, finish_reason=turn_pb2.FINISH_REASON_STOP
        )
        await self._stub.CommitTurn(commit, metadata=redirects.METADATA, timeout=_CALL_S_MAX)
        return ms, opened.manifest

    async def read(self, session: str, manifest: window_pb2.Manifest) -> float:
        """Reads the whole window as a replica does that holds nothing of it; the seconds that took."""
        request = api.ReadWindowRequest(key=self._key(session), epoch=manifest.epoch, end=manifest.end)
        count, started = 0, time.perf_counter()
        async for response in self._stub.ReadWindow(request, metadata=redirects.METADATA, timeout=_CALL_S_MAX):
            count += len(response.items)
        seconds = time.perf_counter() - started
        if count != manifest.end.item_count:
            raise RuntimeError(f"{session}: read {count} items; expected {manifest.end.item_count}")
        return seconds

    async def clear(self) -> None:
        """Deletes every session of the tenant."""
        while True:
            request = api.ListSessionsRequest(tenant=self._tenant, page_size=100)
            page = await self._stub.ListSessions(request, metadata=redirects.METADATA, timeout=_CALL_S_MAX)
            for session in page.sessions:
                await self._delete(session.name.removeprefix("sessions/"))
            if not page.next_page_token:
                return

    def _delete(self, session: str) -> Awaitable[object]:
        request = api.DeleteSessionRequest(key=self._key(session))
        return self._stub.DeleteSession(request, metadata=redirects.METADATA, timeout=_CALL_S_MAX)
