"""API keys at the gRPC edge: who is let in, as whom, and what the log says of who is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast

import grpc.aio
import pytest
import pytest_asyncio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2

from gateway.access.gate import Call, KeyGate
from services.access import ApiKey, Scope, parse
from services.config import AccessSettings, Settings
from services.errors import IsthmusError, UpstreamUnavailable
from services.valkey import connect
from tests.gateway.client import Client, turn_request
from tests.gateway.test_sessions import refusal
from tests.support.api_keys import expired_key, keeping, new_key, revoked_key
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, changed, running_mesh
from tests.support.valkey_server import ValkeyServer

contract = session_service_pb2
UNAUTHENTICATED = errors_pb2.ERROR_REASON_UNAUTHENTICATED
LIST = contract.ListSessionsRequest()


class _Showing:
    """A stub that shows the same credentials with every call."""

    def __init__(self, stub: object, credentials: tuple[str, ...]) -> None:
        self._stub = stub
        self._metadata = [("authorization", each) for each in credentials]

    def __getattr__(self, method: str) -> Any:
        return partial(getattr(self._stub, method), metadata=self._metadata)


class Door:
    """The gRPC edge of a mesh that wants keys."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def showing(self, *credentials: str) -> Client:
        """A client that shows these."""
        client = Client(self._channel)
        client.stub = cast("Any", _Showing(client.stub, credentials))
        return client

    def of(self, key: str) -> Client:
        """A client with a key."""
        return self.showing(f"Bearer {key}")


@pytest.fixture
def keyed(quick: Settings) -> Settings:
    """Keys are wanted, and what a gateway knows of one is young."""
    return changed(quick, "gateway", access={"mode": "keys", "cache_ms_max": 50, "refusals_logged_count_max": 2})


@pytest_asyncio.fixture
async def mesh(keyed: Settings) -> AsyncIterator[Mesh]:
    """One shard, one quick replica, one gateway that wants keys."""
    async with running_mesh(keyed, shards=1, replicas=1) as running:
        yield running


@pytest_asyncio.fixture
async def door(mesh: Mesh) -> AsyncIterator[Door]:
    """Where clients of it begin."""
    async with grpc.aio.insecure_channel(mesh.grpc_target) as channel:
        yield Door(channel)


async def test_a_key_opens_its_tenants_sessions(door: Door, keyed: Settings) -> None:
    client = door.of(await new_key(keyed, "acme"))
    await client.create("s1")
    turn = await client.turn(turn_request("s1", "hello"))
    assert turn.output_text
    assert [each.name for each in (await client.stub.ListSessions(LIST)).sessions] == ["sessions/s1"]


async def test_who_shows_no_key_that_is_valid_now_is_told_why(door: Door, keyed: Settings) -> None:
    good = await new_key(keyed)
    told = {
        "no API key came": door.showing(),
        "2 credentials came": door.showing(f"Bearer {good}", f"Bearer {good}"),
        "not of the scheme Bearer": door.showing(f"Basic {good}"),
        "its checksum does not fit": door.of(good[:-1] + ("a" if good[-1] != "a" else "b")),
        "not one of this mesh's": door.of(ApiKey("a" * 12, "a" * 32).text),
        "expired at": door.of(await expired_key(keyed)),
        "was revoked at": door.of(await revoked_key(keyed)),
    }
    for said, client in told.items():
        for call in (
            client.stub.ListSessions(LIST),
            client.stub.GetSession(contract.GetSessionRequest(name="RUBBISH")),
        ):
            error = await refusal(call)
            assert error.reason == UNAUTHENTICATED, said
            assert error.code is grpc.StatusCode.UNAUTHENTICATED
            assert said in error.message
            assert good not in error.message
        with pytest.raises(IsthmusError, match=said):
            await client.turn(turn_request("s1", "hello"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.ingest("s1", "book", b"text")
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert (await door.of(good).stub.ListSessions(LIST)).sessions == []


async def test_a_wrong_secret_and_an_unknown_id_are_told_the_same(door: Door, keyed: Settings) -> None:
    good = parse(await new_key(keyed))
    wrong, unknown = ApiKey(good.id, "a" * 32), ApiKey("a" * 12, good.secret)
    errors = [await refusal(door.of(key.text).stub.ListSessions(LIST)) for key in (wrong, unknown)]
    assert errors[0].message == errors[1].message
    assert errors[0].reason == errors[1].reason == UNAUTHENTICATED


async def test_a_key_does_what_its_scopes_say_and_no_more(door: Door, keyed: Settings) -> None:
    writer = door.of(await new_key(keyed, "acme", [Scope.SESSIONS_WRITE]))
    reader = door.of(await new_key(keyed, "acme", [Scope.SESSIONS_READ]))
    talker = door.of(await new_key(keyed, "acme", [Scope.TURNS]))
    admin = door.of(await new_key(keyed, "acme", [Scope.ADMIN]))
    await writer.create("s1")
    assert (await talker.turn(turn_request("s1", "hello"))).output_text
    assert len((await reader.stub.ListSessions(LIST)).sessions) == 1
    assert (await admin.turn(turn_request("s1", "and on"))).output_text
    assert len((await admin.stub.ListSessions(LIST)).sessions) == 1

    deletion = contract.DeleteSessionRequest(name="sessions/s1")
    for client, call, scope in (
        (reader, reader.stub.DeleteSession(deletion), "sessions.write"),
        (talker, talker.stub.ListSessions(LIST), "sessions.read"),
        (writer, writer.stub.CancelTurn(contract.CancelTurnRequest(name="sessions/s1/turns/1")), "turns"),
    ):
        error = await refusal(call)
        assert error.reason == errors_pb2.ERROR_REASON_PERMISSION_DENIED, client
        assert error.code is grpc.StatusCode.PERMISSION_DENIED
        assert error.metadata == {"scope": scope}
        assert f"needs the scope {scope}; the API key isk-" in error.message


async def test_two_tenants_with_the_same_session_id_see_their_own(door: Door, keyed: Settings) -> None:
    one, other = [door.of(await new_key(keyed, tenant)) for tenant in ("one", "other")]
    await one.create("s1", display_name="of one")
    unknown = await refusal(other.stub.GetSession(contract.GetSessionRequest(name="sessions/s2")))
    hidden = await refusal(other.stub.GetSession(contract.GetSessionRequest(name="sessions/s1")))
    assert hidden.reason == errors_pb2.ERROR_REASON_NOT_FOUND
    assert hidden.message == unknown.message.replace("s2", "s1")

    await other.create("s1", display_name="of the other")
    await one.turn(turn_request("s1", "one speaks", "r1"))
    await other.turn(turn_request("s1", "the other speaks", "r1"))
    assert (await one.texts("s1"))[0] == "one speaks"
    assert (await other.texts("s1"))[0] == "the other speaks"
    await one.stub.DeleteSession(contract.DeleteSessionRequest(name="sessions/s1"))
    assert len(await other.texts("s1")) == 2


async def test_a_revoked_key_is_refused_by_every_gateway(mesh: Mesh, keyed: Settings) -> None:
    await mesh.add_gateway(1)
    async with keeping(keyed) as keeper:
        made = await keeper.create("acme", [Scope.SESSIONS_READ])
        for number in (0, 1):
            async with grpc.aio.insecure_channel(mesh.gateway_room(number).address) as channel:
                await Door(channel).of(made.key.text).stub.ListSessions(LIST)
        await keeper.revoke(made.key.id)
    for number in (0, 1):
        async with grpc.aio.insecure_channel(mesh.gateway_room(number).address) as channel:
            client = Door(channel).of(made.key.text)

            async def is_refused(client: Client = client) -> bool:
                try:
                    await client.stub.ListSessions(LIST)
                except grpc.aio.AioRpcError as error:
                    return error.code() is grpc.StatusCode.UNAUTHENTICATED
                return False

            await eventually(is_refused)


async def test_a_revocation_is_in_force_once_what_was_read_is_too_old(settings: Settings) -> None:
    now = [100.0]
    valkey = connect(settings.valkey)
    gate = KeyGate(valkey, AccessSettings(mode="keys", cache_ms_max=5_000), ticks=lambda: now[0])
    async with keeping(settings) as keeper:
        made = await keeper.create("acme", [Scope.TURNS])
        call = Call("RunTurn", Scope.TURNS, [f"Bearer {made.key.text}"], "peer")
        assert await gate.tenant_of(call) == "acme"
        await keeper.revoke(made.key.id)
    now[0] += 4.999
    assert await gate.tenant_of(call) == "acme"
    now[0] += 0.001
    with pytest.raises(IsthmusError, match="was revoked at"):
        await gate.tenant_of(call)
    gate.close()
    await valkey.aclose()


async def test_without_valkey_a_key_is_good_for_as_long_as_it_is_remembered(
    settings: Settings, valkey_server: ValkeyServer
) -> None:
    now = [100.0]
    quick = changed(settings, "valkey", retries_count_max=0, connect_ms_max=200)
    valkey = connect(quick.valkey)
    gate = KeyGate(valkey, AccessSettings(mode="keys", cache_ms_max=5_000), ticks=lambda: now[0])
    call = Call("RunTurn", Scope.TURNS, [f"Bearer {await new_key(settings, 'acme')}"], "peer")
    await gate.tenant_of(call)
    valkey_server.kill()
    try:
        assert await gate.tenant_of(call) == "acme"
        now[0] += 5
        with pytest.raises(UpstreamUnavailable) as caught:
            await gate.tenant_of(call)
        assert caught.value.retry_after_ms
    finally:
        valkey_server.start()
    await valkey.aclose()


async def test_health_is_asked_without_a_key(mesh: Mesh) -> None:
    async with grpc.aio.insecure_channel(mesh.grpc_target) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_refusals_are_logged_within_their_bound_and_without_secrets(door: Door, keyed: Settings) -> None:
    revoked = await revoked_key(keyed, "acme")
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            await refusal(door.of(revoked).stub.ListSessions(LIST))

        def counted() -> int:
            told = [each for each in lines if each["event"] == "access_refused"]
            more = [each for each in lines if each["event"] == "access_refused_more"]
            return len(told) + sum(int(each["count"]) for each in more)

        await eventually(lambda: counted() == 5)
    first = next(each for each in lines if each["event"] == "access_refused")
    assert first["what"] == "isthmus.session.v1.SessionService/ListSessions"
    assert (first["reason"], first["tenant"], first["key"]) == ("revoked", "acme", revoked[4:16])
    assert first["peer"].startswith("ipv4:127.0.0.1:")
    assert revoked[17:49] not in str(lines)
    assert any(
        each["event"] == "access_refused_more" and each["reasons"] == {"revoked": each["count"]} for each in lines
    )


async def test_an_open_mesh_takes_everybody_as_one_tenant(quick: Settings) -> None:
    async with running_mesh(quick, shards=1) as mesh, grpc.aio.insecure_channel(mesh.grpc_target) as channel:
        door = Door(channel)
        await door.showing().create("s1")
        assert len((await door.showing("Bearer none").stub.ListSessions(LIST)).sessions) == 1
