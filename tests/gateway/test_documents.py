"""Documents stream through the gateway to their shard; what was cut is resumed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import grpc.aio
import pytest
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import document_pb2, session_service_pb2

from services.errors import IsthmusError, from_rpc_error
from services.rpc.ended import ServerStatus
from tests.gateway.client import Client, document_requests, turn_request
from tests.support.eventually import eventually
from tests.support.mesh import Mesh

Requests = Iterable[session_service_pb2.IngestDocumentRequest]

TEXT = "".join(f"Zeile {number}: über die Landenge führt ein Weg.\n" for number in range(40_000)).encode()
CHUNK_BYTES = 100_003


async def refusal(client: Client, requests: Requests) -> IsthmusError:
    """What a stream of requests was refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ServerStatus(client.stub.IngestDocument(iter(requests)))
    return from_rpc_error(caught.value)


def whole(document: str = "d1") -> Iterator[session_service_pb2.IngestDocumentRequest]:
    """The whole document, its chunks cutting through characters."""
    return document_requests("s1", document, TEXT, CHUNK_BYTES)


def resumed(committed_bytes: int) -> Iterator[session_service_pb2.IngestDocumentRequest]:
    """The header, and what is missing from there on."""
    return document_requests("s1", "d1", TEXT, CHUNK_BYTES, begin=committed_bytes)


async def stored(client: Client) -> document_pb2.Document:
    """The document as the store has it."""
    name = "sessions/s1/documents/d1"
    return await client.stub.GetDocument(session_service_pb2.GetDocumentRequest(name=name))


async def committed(client: Client) -> bool:
    """Whether some of the document is durable."""
    try:
        return (await stored(client)).committed_bytes > 0
    except grpc.aio.AioRpcError:
        return False


async def log_of(client: Client) -> str:
    """All text of the session."""
    texts: list[str] = []
    request = session_service_pb2.ListFragmentsRequest(parent="sessions/s1", page_size=1_000)
    while True:
        page = await client.stub.ListFragments(request)
        texts += [fragment.text for fragment in page.fragments]
        if not page.next_page_token:
            return "".join(texts)
        request.page_token = page.next_page_token


async def test_a_document_is_kept_whole(client: Client) -> None:
    await client.create("s1")
    document = await client.ingest("s1", "d1", TEXT, chunk_bytes=CHUNK_BYTES)
    assert (document.name, document.committed_bytes) == ("sessions/s1/documents/d1", len(TEXT))
    assert document.state == document_pb2.Document.STATE_COMPLETE
    assert await log_of(client) == TEXT.decode()
    assert await stored(client) == document


async def test_half_a_stream_is_kept_and_resumed_where_it_ended(client: Client) -> None:
    await client.create("s1")
    requests = list(whole())
    cut = await refusal(client, requests[: len(requests) // 2])
    assert cut.reason == errors_pb2.ERROR_REASON_DOCUMENT_INCOMPLETE

    left = await stored(client)
    assert left.state == document_pb2.Document.STATE_RECEIVING
    done = await client.stub.IngestDocument(resumed(left.committed_bytes))
    assert done.state == document_pb2.Document.STATE_COMPLETE
    assert await log_of(client) == TEXT.decode()


async def test_a_chunk_out_of_place_is_refused_with_where_to_resume(client: Client) -> None:
    await client.create("s1")
    requests = list(whole())
    del requests[2]
    error = await refusal(client, requests)
    assert error.reason == errors_pb2.ERROR_REASON_DOCUMENT_OFFSET
    assert "committed_bytes" in error.metadata


async def test_a_bad_request_amid_the_stream_is_refused_by_field(client: Client) -> None:
    await client.create("s1")
    requests = list(whole())
    requests[2].part.chunk.data = bytes(1_048_577)
    error = await refusal(client, requests)
    assert error.reason == errors_pb2.ERROR_REASON_INVALID_FIELD
    assert [violation.field for violation in error.fields] == ["part.chunk.data"]


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        ([], errors_pb2.ERROR_REASON_INVALID_FIELD),
        (list(document_requests("nobody", "d1", b"text", 4)), errors_pb2.ERROR_REASON_NOT_FOUND),
        (list(document_requests("s1", "d1", b"text", 4))[1:], errors_pb2.ERROR_REASON_INVALID_FIELD),
        (list(document_requests("s1", "d1", b"\xff\xfe text", 7)), errors_pb2.ERROR_REASON_INVALID_UTF8),
    ],
)
async def test_streams_that_make_no_sense_are_refused(
    client: Client, requests: Requests, reason: errors_pb2.ErrorReason.ValueType
) -> None:
    await client.create("s1")
    assert (await refusal(client, requests)).reason == reason


async def test_a_document_whose_shard_is_lost_is_resumed_at_another(mesh: Mesh, client: Client) -> None:
    await client.create("s1")
    owner = (await client.turn(turn_request("s1", "Who keeps this?"))).receipt.shard
    call = client.stub.IngestDocument()
    for request in list(whole())[:12]:
        await call.write(request)
    await eventually(lambda: committed(client), message="a part is durable")
    await mesh.remove(owner)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert from_rpc_error(caught.value).reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    left = await stored(client)
    done = await client.stub.IngestDocument(resumed(left.committed_bytes))
    assert done.state == document_pb2.Document.STATE_COMPLETE
    assert (await log_of(client)).endswith(TEXT.decode())
