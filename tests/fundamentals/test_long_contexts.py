"""The manual's second page: texts longer than any window, and what the window says of them."""

from __future__ import annotations

import grpc
import pytest
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import document_pb2, session_service_pb2

from services.errors import from_rpc_error
from tests.gateway.client import Client, document_requests, turn_request

PARAGRAPH = "The isthmus is narrow here, and the two seas are in sight of each other. Ships wait on both sides.\n\n"


async def test_a_turn_moves_the_same_few_bytes_whatever_is_behind_it(client: Client) -> None:
    sizes = []
    for session, paragraphs in (("short", 20), ("long", 5_000)):
        await client.create(session)
        await client.ingest(session, "report", (PARAGRAPH * paragraphs).encode())
        await client.turn(turn_request(session, "What waits on both sides?"))
        receipt = (await client.turn(turn_request(session, "And what is narrow?"))).receipt
        sizes.append({(hop.name, hop.operation): hop.bytes_sent + hop.bytes_received for hop in receipt.hops})
        assert receipt.tokens.window_tokens > paragraphs * 10

    short, long = sizes
    assert short.keys() == long.keys()
    assert all(abs(short[hop] - long[hop]) < 256 for hop in short), (short, long)


async def test_a_cut_document_is_resumed_where_it_is_durable(client: Client) -> None:
    await client.create("manual")
    whole = (PARAGRAPH * 1_000).encode()
    half = iter(list(document_requests("manual", "report", whole[:50_000], 16_384))[:-1])
    with pytest.raises(grpc.aio.AioRpcError) as cut:
        await client.stub.IngestDocument(half)
    assert from_rpc_error(cut.value).reason == errors_pb2.ERROR_REASON_DOCUMENT_INCOMPLETE

    name = session_service_pb2.GetDocumentRequest(name="sessions/manual/documents/report")
    durable = (await client.stub.GetDocument(name)).committed_bytes
    assert 0 < durable <= 50_000
    document = await client.stub.IngestDocument(document_requests("manual", "report", whole, 16_384, begin=durable))
    assert document.state == document_pb2.Document.STATE_COMPLETE
    assert document.committed_bytes == len(whole)
    assert "".join(await client.texts("manual")) == whole.decode()


async def test_a_window_fits_and_names_what_it_left_out(client: Client) -> None:
    await client.create("manual", window_tokens_max=2_000)
    await client.ingest("manual", "report", (PARAGRAPH * 2_000).encode())
    receipt = (await client.turn(turn_request("manual", "What waits on both sides?"))).receipt

    assert receipt.tokens.window_tokens <= 2_100  # the model's own template is outside of the session's bound
    window = receipt.window
    assert window.left_out_tokens > 0
    assert window.left_out[0].first_sequence == 1
    # From the end of what was left out on, the window holds the log word for word.
    preview = await client.stub.PreviewWindow(session_service_pb2.PreviewWindowRequest(session="sessions/manual"))
    assert preview.window.epoch == window.epoch
