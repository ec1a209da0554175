"""The standard methods at the gRPC edge, and rubbish."""

from __future__ import annotations

from collections.abc import Awaitable

import grpc.aio
import pytest
from google.protobuf import field_mask_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_pb2, session_service_pb2

from services.errors import IsthmusError, from_rpc_error
from tests.gateway.client import Client, turn_request, user
from tests.support.mesh import Mesh

contract = session_service_pb2


async def refusal(call: Awaitable[object]) -> IsthmusError:
    """What the call was refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_a_session_is_made_read_changed_listed_and_erased(client: Client) -> None:
    made = await client.create("s1", display_name="One", labels={"kind": "test"})
    assert (made.name, made.display_name, dict(made.labels)) == ("sessions/s1", "One", {"kind": "test"})
    again = await refusal(client.create("s1"))
    assert again.reason == errors_pb2.ERROR_REASON_ALREADY_EXISTS

    change = session_pb2.Session(name="sessions/s1", display_name="Two", etag=made.etag)
    mask = field_mask_pb2.FieldMask(paths=["display_name"])
    update = contract.UpdateSessionRequest(session=change, update_mask=mask)
    assert (await client.stub.UpdateSession(update)).display_name == "Two"
    stale = await refusal(client.stub.UpdateSession(update))
    assert stale.reason == errors_pb2.ERROR_REASON_ETAG_MISMATCH

    await client.create("s2")
    first = await client.stub.ListSessions(contract.ListSessionsRequest(page_size=1))
    rest = await client.stub.ListSessions(contract.ListSessionsRequest(page_token=first.next_page_token))
    assert [each.name for page in (first, rest) for each in page.sessions] == ["sessions/s1", "sessions/s2"]

    await client.stub.DeleteSession(contract.DeleteSessionRequest(name="sessions/s1"))
    gone = await refusal(client.stub.GetSession(contract.GetSessionRequest(name="sessions/s1")))
    assert gone.reason == errors_pb2.ERROR_REASON_NOT_FOUND


async def test_a_session_without_an_id_gets_one(client: Client) -> None:
    made = await client.create("")
    assert (await client.stub.GetSession(contract.GetSessionRequest(name=made.name))).name == made.name


async def test_messages_are_appended_once_read_and_erased(client: Client) -> None:
    await client.create("s1")
    messages = [user("one"), user("two")]
    assert await client.append("s1", messages, "a1") == await client.append("s1", messages, "a1") == [1, 2]
    assert await client.texts("s1") == ["one", "two"]
    name = "sessions/s1/fragments/2"
    assert (await client.stub.GetFragment(contract.GetFragmentRequest(name=name))).text == "two"
    await client.stub.DeleteFragment(contract.DeleteFragmentRequest(name=name))
    assert await client.texts("s1") != ["one", "two"]
    missing = await refusal(client.stub.GetFragment(contract.GetFragmentRequest(name="sessions/s1/fragments/3")))
    assert missing.reason == errors_pb2.ERROR_REASON_NOT_FOUND


async def test_turns_are_listed_without_their_text(client: Client) -> None:
    await client.create("s1")
    for text in ("one", "two"):
        await client.turn(turn_request("s1", text))
    page = await client.stub.ListTurns(contract.ListTurnsRequest(parent="sessions/s1"))
    assert [(turn.number, turn.output_text) for turn in page.turns] == [(1, ""), (2, "")]


async def test_the_window_is_previewed_as_the_next_turn_would_find_it(client: Client) -> None:
    await client.create("s1")
    await client.append("s1", [user("one"), user("two")])
    preview = await client.stub.PreviewWindow(contract.PreviewWindowRequest(session="sessions/s1"))
    assert preview.window.item_count == 2
    assert 0 < preview.tokens < preview.tokens_max


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (contract.GetSessionRequest(name="sessions/NOT VALID"), "name"),
        (contract.ListSessionsRequest(page_size=1_000_000), "page_size"),
        (contract.UpdateSessionRequest(session=session_pb2.Session(name="s1")), "session.name"),
        (contract.GetTurnRequest(name="sessions/s1/turns/0"), "name"),
        (contract.ListFragmentsRequest(parent="sessions/s1", start_sequence=-1), "start_sequence"),
        (contract.AppendMessagesRequest(session="sessions/s1"), "messages"),
    ],
)
async def test_rubbish_is_refused_by_field(client: Client, request_: object, field: str) -> None:
    method = type(request_).__name__.removesuffix("Request")
    error = await refusal(getattr(client.stub, method)(request_))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in error.fields] == [field]


async def test_bytes_that_are_no_text_are_refused_and_the_edge_goes_on(mesh: Mesh, client: Client) -> None:
    await client.create("s1")
    text = b"\x08\x02\x12\x02\xff\xfe"
    body = b"\x0a\x0bsessions/s1" + b"\x1a" + bytes([len(text)]) + text
    async with grpc.aio.insecure_channel(mesh.grpc_target) as channel:
        raw: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
            "/isthmus.session.v1.SessionService/RunTurn"
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(body).read()
    assert from_rpc_error(caught.value).reason == errors_pb2.ERROR_REASON_INVALID_UTF8
    assert (await client.turn(turn_request("s1", "Still there?"))).output_text


async def test_health_is_served(mesh: Mesh) -> None:
    async with grpc.aio.insecure_channel(mesh.grpc_target) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
