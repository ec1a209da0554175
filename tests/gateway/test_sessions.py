"""The standard methods at the gRPC edge, and rubbish."""

from __future__ import annotations

from collections.abc import Awaitable

import grpc.aio
import pytest
from google.protobuf import field_mask_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_pb2, session_service_pb2

from context_store.log.keys import Keys
from context_store.room import ContextStoreRoom
from services.errors import IsthmusError, from_rpc_error
from services.lifecycle import Lifecycle, State
from services.membership import Announcer, Member
from services.router import STORE
from services.rpc.ended import ServerStatus
from services.valkey import connect
from tests.gateway.client import Client, turn_request, user
from tests.support.eventually import eventually
from tests.support.mesh import Mesh

contract = session_service_pb2


async def refusal(call: Awaitable[object]) -> IsthmusError:
    """What the call was refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        # Such a call may be refused while its requests are still being written.
        await (ServerStatus(call) if isinstance(call, grpc.aio.StreamUnaryCall) else call)
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


async def test_a_deletion_reaches_every_shard_and_replica(client: Client, mesh: Mesh) -> None:
    await client.create("s1")
    await client.turn(turn_request("s1", "hello"))
    await client.stub.ForkSession(contract.ForkSessionRequest(name="sessions/s1", session_id="s2"))
    await client.turn(turn_request("s2", "and on"))
    for number in (0, 1):
        shard = mesh.rooms[f"context_store-{number}"]
        assert isinstance(shard, ContextStoreRoom)
        assert shard.store
        await shard.store.read(Keys(mesh.settings.mesh.tenant_default, "s1"))

    receipt = await client.stub.DeleteSession(contract.DeleteSessionRequest(name="sessions/s1"))
    places = {(one.place, one.kind): one.count for one in receipt.erasures}
    assert {("context_store-0", "hot_copy"), ("context_store-1", "hot_copy"), ("inference-0", "window")} <= set(places)
    assert places["inference-0", "window"] >= 1
    assert (list(receipt.forks), list(receipt.unreached)) == (["sessions/s2"], [])
    assert (await client.texts("s2"))[0] == "and on"
    again = await refusal(client.stub.DeleteSession(contract.DeleteSessionRequest(name="sessions/s1")))
    assert again.reason == errors_pb2.ERROR_REASON_NOT_FOUND


async def test_a_member_that_cannot_be_asked_is_named(client: Client, mesh: Mesh) -> None:
    await client.create("s1")
    lifecycle = Lifecycle()
    lifecycle.move(State.READY)
    lifecycle.move(State.DRAINING)
    valkey = connect(mesh.settings.valkey)
    announcer = Announcer(valkey, mesh.settings.membership, Member("ghost", STORE, "127.0.0.1:9"), lifecycle)
    await announcer.start()

    async def unreached() -> list[str]:
        await client.create("s2")
        receipt = await client.stub.DeleteSession(contract.DeleteSessionRequest(name="sessions/s2"))
        return list(receipt.unreached)

    # As soon as the gateway's view has it.
    assert await eventually(unreached) == ["ghost"]
    await announcer.stop()
    await valkey.aclose()


async def test_a_fork_goes_on_from_an_older_turn(client: Client) -> None:
    await client.create("s1", labels={"kind": "test"})
    await client.turn(turn_request("s1", "one"))
    await client.turn(turn_request("s1", "two"))
    request = contract.ForkSessionRequest(name="sessions/s1", turn=1, session=session_pb2.Session(display_name="Other"))
    fork = await client.stub.ForkSession(request)
    assert (fork.parent, fork.parent_turn, fork.display_name, fork.labels["kind"]) == (
        "sessions/s1", 1, "Other", "test"
    )  # fmt: skip
    name = fork.name.removeprefix("sessions/")
    turn = await client.turn(turn_request(name, "another two"))
    assert turn.number == 2
    assert (await client.texts(name))[2] == "another two"


async def test_an_export_is_imported_under_another_name(client: Client) -> None:
    await client.create("s1")
    await client.turn(turn_request("s1", "hello", "r1"))
    await client.ingest("s1", "book", b"A long text. " * 10_000)
    answers = [one async for one in client.stub.ExportSession(contract.ExportSessionRequest(name="sessions/s1"))]
    requests = [contract.ImportSessionRequest(session_id="s2", records=one.records) for one in answers]
    made = await client.stub.ImportSession(iter(requests))
    assert made.name == "sessions/s2"
    assert await client.texts("s2") == await client.texts("s1")
    assert (await client.turn(turn_request("s2", "hello", "r1"))).number == 1
    taken = await refusal(client.stub.ImportSession(iter(requests)))
    assert taken.reason == errors_pb2.ERROR_REASON_ALREADY_EXISTS
    rubbish = contract.ImportSessionRequest(session_id="s3", records=answers[0].records[1:])
    refused = await refusal(client.stub.ImportSession(iter([rubbish])))
    assert (refused.reason, refused.fields[0].field) == (errors_pb2.ERROR_REASON_INVALID_FIELD, "records[0]")


async def test_lists_are_filtered(client: Client) -> None:
    for number in range(6):
        await client.create(f"s{number}", labels={"team": "red" if number % 2 else "blue"})
    found: list[str] = []
    page = contract.ListSessionsResponse()
    while not found or page.next_page_token:
        request = contract.ListSessionsRequest(
            page_size=2, page_token=page.next_page_token, filter='labels.team = "red" AND name > "sessions/s1"'
        )
        page = await client.stub.ListSessions(request)
        found += [one.name for one in page.sessions]
    assert found == ["sessions/s3", "sessions/s5"]
    wrong = await refusal(client.stub.ListSessions(contract.ListSessionsRequest(filter="labels.team = red OR x")))
    assert (wrong.fields[0].field, "at character 18: expected AND" in wrong.message) == ("filter", True)
