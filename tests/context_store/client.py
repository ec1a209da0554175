"""A caller of one shard, as a gateway or a replica would call it, with the boilerplate of requests taken off."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import grpc
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import summary_pb2, window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import deletion_pb2, document_pb2, fragment_pb2, message_pb2, session_pb2, turn_pb2

if TYPE_CHECKING:
    from isthmus.context.v1.context_service_pb2_grpc import ContextServiceAsyncStub

from services.digest import EMPTY, chain, item_digest, source_digest
from services.errors import from_rpc_error
from services.rpc.ended import ServerStatus

TENANT = "acme"
SESSION = "s1"
TOKENIZER = b"tokenizer-digest"
ROOM = 1_000_000


def user(text: str, pinned: bool = False) -> message_pb2.Message:
    return message_pb2.Message(role=message_pb2.ROLE_USER, text=text, pinned=pinned)


def body_digest(messages: Iterable[message_pb2.Message]) -> bytes:
    return blake2b(b"".join(one.SerializeToString() for one in messages), digest_size=16).digest()


def chained(items: Iterable[window_pb2.WindowItem], start: bytes = EMPTY) -> bytes:
    """The chain digest of items, computed from their content as a replica does."""
    for item in items:
        assert item.digest == item_digest(item)
        start = chain(start, item.digest)
    return start


async def refusal(call: Awaitable[object]) -> tuple[grpc.StatusCode, str, dict[str, str], int | None]:
    """Code, reason, metadata and RetryInfo of a call that has to be refused."""
    try:
        # Such a call may be refused while its requests are still being written.
        answer = await (ServerStatus(call) if isinstance(call, grpc.aio.StreamUnaryCall) else call)
    except grpc.aio.AioRpcError as error:
        ours = from_rpc_error(error)
        name = errors_pb2.ErrorReason.Name(ours.reason).removeprefix("ERROR_REASON_")
        return error.code(), name, ours.metadata, ours.retry_after_ms
    raise AssertionError(f"was not refused: {answer}")


def lease_of(opened: api.OpenTurnResponse) -> api.TurnLease:
    turn = opened.turn
    return api.TurnLease(turn=turn.number, attempt=turn.attempt, incarnation=opened.incarnation)


class StoreClient:
    """Calls about one session, unless told of another."""

    def __init__(self, stub: ContextServiceAsyncStub, session: str = SESSION) -> None:
        self.stub = stub
        self.key = api.SessionKey(tenant=TENANT, session=session)

    def about(self, session: str) -> StoreClient:
        """A caller of the same shard about another session."""
        return StoreClient(self.stub, session)

    async def create(self, **fields: Any) -> session_pb2.Session:
        own = session_pb2.Session(**fields)
        request = api.CreateSessionRequest(tenant=self.key.tenant, session_id=self.key.session, session=own)
        return await self.stub.CreateSession(request)

    async def fork(self, session: str, turn: int = 0, fork_id: bytes = b"", **fields: Any) -> StoreClient:
        """A caller about a fork that is made of this session."""
        request = api.ForkSessionRequest(
            key=self.key,
            turn=turn,
            session_id=session,
            session=session_pb2.Session(**fields),
            fork_id=fork_id or secrets.token_bytes(8),
        )
        await self.stub.ForkSession(request)
        return self.about(session)

    async def delete(self) -> deletion_pb2.DeletionReceipt:
        return await self.stub.DeleteSession(api.DeleteSessionRequest(key=self.key))

    async def texts(self) -> list[str]:
        """The log's texts, in order."""
        return [fragment.text for fragment in await self.fragments()]

    async def get(self) -> session_pb2.Session:
        return await self.stub.GetSession(api.GetSessionRequest(key=self.key))

    def open_request(
        self,
        *messages: message_pb2.Message | str,
        request_id: str = "r1",
        driver: str = "d1",
        room: int = ROOM,
        lease_ms: int = 5_000,
        after_turn: int | None = None,
    ) -> api.OpenTurnRequest:
        said = [user(one) if isinstance(one, str) else one for one in messages]
        request = api.OpenTurnRequest(
            key=self.key,
            request_id=request_id,
            body_digest=body_digest(said),
            driver=driver,
            messages=said,
            model="m",
            window_tokens_max=room,
            tokenizer=TOKENIZER,
            after_turn=after_turn,
        )
        request.lease.FromMilliseconds(lease_ms)
        return request

    async def open(self, *messages: message_pb2.Message | str, **options: Any) -> api.OpenTurnResponse:
        return await self.stub.OpenTurn(self.open_request(*messages, **options))

    def commit_request(
        self, opened: api.OpenTurnResponse, text: str, counts: Iterable[tuple[int, int]] = ()
    ) -> api.CommitTurnRequest:
        return api.CommitTurnRequest(
            key=self.key,
            lease=lease_of(opened),
            output_text=text,
            finish_reason=turn_pb2.FINISH_REASON_STOP,
            tokenizer=TOKENIZER,
            counts=[summary_pb2.TokenCount(sequence=sequence, tokens=tokens) for sequence, tokens in counts],
        )

    async def commit(
        self, opened: api.OpenTurnResponse, text: str, counts: Iterable[tuple[int, int]] = ()
    ) -> api.CommitTurnResponse:
        return await self.stub.CommitTurn(self.commit_request(opened, text, counts))

    async def turn(
        self, request_id: str, *messages: message_pb2.Message | str, reply: str = "ok", **options: object
    ) -> turn_pb2.Turn:
        """A whole turn."""
        opened = await self.open(*messages, request_id=request_id, **options)
        return (await self.commit(opened, reply)).turn

    async def append(self, *messages: message_pb2.Message | str) -> list[fragment_pb2.Fragment]:
        said = [user(one) if isinstance(one, str) else one for one in messages]
        answer = await self.stub.AppendMessages(api.AppendMessagesRequest(key=self.key, messages=said))
        return list(answer.fragments)

    async def fragments(self) -> list[fragment_pb2.Fragment]:
        """The whole log, page by page."""
        found: list[fragment_pb2.Fragment] = []
        token = ""
        while True:
            page = await self.stub.ListFragments(
                api.ListFragmentsRequest(key=self.key, page_size=1000, page_token=token)
            )
            found.extend(page.fragments)
            token = page.next_page_token
            if not token:
                return found

    async def window(
        self, manifest: window_pb2.Manifest, have: Iterable[window_pb2.Checkpoint] = ()
    ) -> tuple[window_pb2.Checkpoint, list[window_pb2.WindowItem]]:
        """What ReadWindow streams: where it begins, and the items."""
        request = api.ReadWindowRequest(key=self.key, epoch=manifest.epoch, end=manifest.end, have=have)
        start = window_pb2.Checkpoint()
        items: list[window_pb2.WindowItem] = []
        async for response in self.stub.ReadWindow(request):
            if response.HasField("from"):
                start = getattr(response, "from")
            items.extend(response.items)
        return start, items

    async def write(self, document: str, data: bytes, chunk: int = 100_000, offset: int = 0) -> document_pb2.Document:
        """A document as one stream, from `offset` on."""
        return await self.stub.WriteDocument(self.parts(document, data, chunk, offset))

    async def parts(
        self, document: str, data: bytes, chunk: int = 100_000, offset: int = 0, end: bool = True
    ) -> AsyncIterator[api.WriteDocumentRequest]:
        header = document_pb2.DocumentPart.Header(document_id=document, display_name=f"{document}.txt")
        yield api.WriteDocumentRequest(key=self.key, part=document_pb2.DocumentPart(header=header))
        for start in range(offset, len(data), chunk):
            piece = document_pb2.DocumentPart.Chunk(offset=start, data=data[start : start + chunk])
            yield api.WriteDocumentRequest(part=document_pb2.DocumentPart(chunk=piece))
        if end:
            last = document_pb2.DocumentPart.End(size_bytes=len(data))
            yield api.WriteDocumentRequest(part=document_pb2.DocumentPart(end=last))

    async def summarise(self, first: int, last: int, text: str = "short", version: int = 1) -> api.CommitSummaryRequest:
        """The request that the compressor would make for a span of the log."""
        digests = [one.digest for one in await self.fragments() if first <= one.sequence <= last]
        summary = summary_pb2.Summary(
            first_sequence=first,
            last_sequence=last,
            level=1,
            method="test",
            version=version,
            sentences=[summary_pb2.Summary.Sentence(text=text, sequence=first)],
        )
        return api.CommitSummaryRequest(key=self.key, summary=summary, source_digest=source_digest(digests))
