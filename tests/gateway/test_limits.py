"""Limits of callers over gRPC: what is taken, settled and refused by gateways that share one Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2
from redis.asyncio import Redis

from gateway.limits.address import caller_address, host_of, networks
from gateway.limits.estimate import Windows, counted, estimate
from gateway.limits.headers import headers, span
from gateway.limits.limiter import Limiter
from gateway.limits.metrics import LimitMetrics
from gateway.limits.refused import RefusedCallers
from services.config import Settings
from services.errors import IsthmusError
from services.limits.callers import Caller, Kind, Override
from services.limits.keeper import Meters, Overrides, set_override
from services.limits.money import Tokens, cost_micros
from services.limits.standing import Cost, Reading, obstacles
from services.valkey import Acknowledger, connect
from tests.gateway.client import Client, Request, connected, turn_request
from tests.support.eventually import eventually
from tests.support.mesh import changed, running_mesh
from tests.support.meters import Clocked, ClockedMeters, tenant

PRICES = {"*": {"input_micros": 3_000_000, "cached_input_micros": 300_000, "output_micros": 15_000_000}}
SOON = {"overrides_interval_ms": 20}


def limited(settings: Settings, **limits: Any) -> Settings:
    """The settings with these of `gateway.limits`."""
    return changed(settings, "gateway", limits={**SOON, **limits})


async def reading(settings: Settings, caller: Caller) -> Reading:
    """How a caller stands in Valkey."""
    valkey = connect(settings.valkey)
    acknowledger = Acknowledger(valkey, settings.valkey)
    (found,) = (await Meters(acknowledger, settings.gateway.limits.lease_ms).look([caller])).readings
    await acknowledger.aclose()
    await valkey.aclose()
    return found


async def let_through(client: Client, requests: list[Request]) -> int:
    """How many of them were; all others were refused by a limit, and told when to come again."""
    outcomes = await asyncio.gather(*[client.outcome(request) for request in requests])
    refused = [each for each in outcomes if isinstance(each, IsthmusError)]
    assert all(each.reason == errors_pb2.ERROR_REASON_RATE_LIMITED and each.retry_after_ms for each in refused)
    return len(outcomes) - len(refused)


async def test_two_gateways_let_exactly_the_limit_through(quick: Settings) -> None:
    settings = limited(quick, user={"requests_per_minute": 3})
    async with (
        running_mesh(settings, gateways=2) as mesh,
        connected(mesh.gateway_room(0).address) as one,
        connected(mesh.gateway_room(1).address) as two,
    ):
        for number in range(20):
            await one.create(f"s{number}")
        asked = [turn_request(f"s{number}", "Hello.", user="ann") for number in range(20)]
        assert sum(await asyncio.gather(let_through(one, asked[::2]), let_through(two, asked[1::2]))) == 3
        assert await let_through(one, [turn_request("s0", "Hello.", user="bob")]) == 1
        assert await let_through(two, [turn_request("s0", "Hello.")]) == 1


async def test_a_turn_is_settled_to_what_its_receipt_says(quick: Settings) -> None:
    settings = limited(quick, tenant={"tokens_per_minute": 6_000}, prices=PRICES)
    local = tenant(tokens=6_000, name="local")
    async with running_mesh(settings) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        turn = await client.turn(turn_request("s1", "word " * 1_000, "r1"))
        spent = counted(turn.receipt.tokens)
        micros = cost_micros(spent, settings.gateway.limits.prices["*"])
        assert turn.receipt.cost == turn_pb2.Cost(micros=micros, currency="USD")
        assert (await client.get_turn(turn.name)).receipt.cost.micros == micros
        after = await reading(settings, local)
        assert (after.micros, after.turns) == (micros, 0)
        # Some of it has leaked by now.
        assert 0 < after.tokens_level <= spent.computed * 1_000_000
        # A reply that is there already costs nothing.
        await client.turn(turn_request("s1", "word " * 1_000, "r1"))
        assert (await reading(settings, local)).micros == micros
        second = await client.turn(turn_request("s1", "More.", "r2"))
        assert second.receipt.tokens.reused_tokens > 0
        assert (await reading(settings, local)).micros == micros + second.receipt.cost.micros


async def test_a_turn_that_comes_to_nothing_costs_nothing_and_gives_its_place_back(slow: Settings) -> None:
    settings = limited(slow, tenant={"turns_concurrent": 1}, prices=PRICES)
    local = tenant(turns=1, name="local")
    async with running_mesh(settings) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        missing = await client.outcome(turn_request("nobody", "Hello?"))
        assert isinstance(missing, IsthmusError)
        assert missing.reason == errors_pb2.ERROR_REASON_NOT_FOUND
        assert (await reading(settings, local)).micros == 0
        call = client.stub.RunTurn(turn_request("s1", "Take your time."))
        async for event in call:
            if event.HasField("delta"):
                break
        refused = await client.outcome(turn_request("s2", "Now me."))
        assert isinstance(refused, IsthmusError)
        assert refused.metadata == {"limit": "turns_concurrent", "of": "tenant"}
        assert [(each.subject, each.description) for each in refused.quotas] == [
            ("tenants/local", "concurrent turns: 1 of 1 are under way")
        ]
        call.cancel()

        async def is_settled() -> bool:
            return (await reading(settings, local)).turns == 0

        await eventually(is_settled, message="the place is free")
        # Its input was read and its reply begun.
        assert (await reading(settings, local)).micros > 0


async def test_a_turn_that_outlives_its_caller_holds_its_place_until_it_is_done(quick: Settings) -> None:
    paced = changed(quick, "inference", scripted_tokens_per_s=20.0)
    settings = limited(paced, tenant={"turns_concurrent": 1}, prices=PRICES)
    local = tenant(turns=1, name="local")
    async with running_mesh(settings) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        call = client.stub.RunTurn(turn_request("s1", "Hello.", on_disconnect=turn_pb2.ON_DISCONNECT_CONTINUE))
        name = (await anext(aiter(call))).accepted.turn
        call.cancel()
        assert (await reading(settings, local)).turns == 1

        async def is_done() -> bool:
            return (await client.get_turn(name)).state == turn_pb2.Turn.STATE_DONE

        await eventually(is_done, message="the turn goes on")

        async def is_settled() -> bool:
            return (await reading(settings, local)).turns == 0

        await eventually(is_settled, message="the place is free")
        assert (await reading(settings, local)).micros == (await client.get_turn(name)).receipt.cost.micros > 0


async def test_a_budget_ends_and_no_retry_is_asked_for(quick: Settings) -> None:
    settings = limited(quick, tenant={"budget_monthly_micros": 500}, prices=PRICES)
    async with running_mesh(settings) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        first = await client.turn(turn_request("s1", "Hello."))
        # A turn that has begun is finished.
        assert first.receipt.cost.micros > 360
        refused = await client.outcome(turn_request("s1", "word " * 1_000))
        assert isinstance(refused, IsthmusError)
        assert (refused.reason, refused.retry_after_ms) == (errors_pb2.ERROR_REASON_BUDGET_EXHAUSTED, None)
        assert refused.metadata == {"limit": "budget_monthly", "of": "tenant"}
        # Reading what there is costs nothing.
        assert await client.texts("s1")


async def test_limits_that_are_set_count_soon_and_reads_count_as_requests(quick: Settings, valkey: Redis) -> None:
    settings = limited(quick)
    async with running_mesh(settings) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        await client.turn(turn_request("s1", "Hello."))
        # Without limits nobody was asked.
        assert [key async for key in valkey.scan_iter("isthmus:{limits*")] == []

        acknowledger = Acknowledger(valkey, settings.valkey)
        own = Override().changed(Kind.TENANT, {"requests_per_minute": 2})
        await set_override(acknowledger, settings.gateway.limits, "local", b"", own)
        with pytest.raises(IsthmusError, match="somebody else"):
            await set_override(acknowledger, settings.gateway.limits, "local", b"other", Override())

        async def is_refused() -> bool:
            call = client.stub.GetSession(session_service_pb2.GetSessionRequest(name="sessions/s1"))
            return await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

        await eventually(is_refused, message="the limit counts")
        assert isinstance(await client.outcome(turn_request("s1", "Hello.")), IsthmusError)
        async with httpx.AsyncClient(base_url=mesh.http_url) as http:
            lines = (await http.get("/metrics")).text.splitlines()
        assert [each for each in lines if each.startswith("isthmus_limit_refusals_total{")]
        assert await Overrides(valkey).all() == {"local": own}
        _, stored = await Overrides(valkey).find("local")
        await set_override(acknowledger, settings.gateway.limits, "local", stored, Override())

        async def is_served() -> bool:
            return not await is_refused()

        await eventually(is_served, message="the limit is gone")


async def test_what_is_left_is_told_before_the_first_event(quick: Settings) -> None:
    settings = limited(quick, tenant={"requests_per_minute": 4}, address={"tokens_per_minute": 1_000_000})
    async with running_mesh(settings) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        call = client.stub.RunTurn(turn_request("s1", "Hello."))
        told = dict(await call.initial_metadata())
        assert [event.WhichOneof("event") async for event in call][-1] == "done"
    assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-remaining-requests"]) == ("4", "2")
    assert told["x-ratelimit-limit-tokens"] == "1000000"
    assert int(str(told["x-ratelimit-remaining-tokens"])) < 1_000_000


async def test_more_turns_than_places_wait_for_theirs(quick: Settings) -> None:
    settings = changed(quick, "gateway", turns_count_max=2)
    async with running_mesh(settings) as mesh, connected(mesh.grpc_target) as client:
        for number in range(8):
            await client.create(f"s{number}")
        turns = await asyncio.gather(*[client.turn(turn_request(f"s{number}", "Hello.")) for number in range(8)])
        assert all(turn.state == turn_pb2.Turn.STATE_DONE for turn in turns)


async def test_a_full_gateway_reads_no_body_and_a_turn_may_always_be_ended(slow: Settings) -> None:
    settings = limited(slow, tenant={"requests_per_minute": 2}, queue_turns_count_max=0)
    settings = changed(settings, "gateway", turns_count_max=1)
    async with running_mesh(settings) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        call = client.stub.RunTurn(turn_request("s1", "Take your time."))
        accepted = await anext(aiter(call))
        async with httpx.AsyncClient(base_url=mesh.http_url) as http:
            full = await http.post("/v1/responses", content=b"no json")
            assert (full.status_code, full.json()["error"]["code"]) == (429, "overloaded")
            assert int(full.headers["retry-after-ms"]) > 0
        get = session_service_pb2.GetTurnRequest(name=accepted.accepted.turn)
        assert await client.stub.GetTurn(get).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        cancelled = await client.stub.CancelTurn(session_service_pb2.CancelTurnRequest(name=accepted.accepted.turn))
        assert cancelled.state == turn_pb2.Turn.STATE_CANCELLED


async def test_a_lost_valkey_is_told_with_a_time_to_come_again(quick: Settings) -> None:
    away = quick.model_copy(
        update={"valkey": quick.valkey.model_copy(update={"url": "redis://127.0.0.1:1/0", "retries_count_max": 0})}
    )
    async with limiting(limited(away, tenant={"requests_per_minute": 1})) as limiter:
        for work in (limiter.request("acme"), limiter.hold(limiter.callers("acme"), Cost())):
            with pytest.raises(IsthmusError) as caught:
                await work
            assert caught.value.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
            assert caught.value.retry_after_ms


@asynccontextmanager
async def limiting(settings: Settings) -> AsyncIterator[Limiter]:
    """A gateway's limiter."""
    valkey = connect(settings.valkey)
    limiter = Limiter(valkey, settings, LimitMetrics())
    await limiter.start()
    yield limiter
    await limiter.stop()
    await valkey.aclose()


async def test_what_is_held_is_renewed_until_its_gateway_is_gone(settings: Settings) -> None:
    brief = limited(settings, tenant={"turns_concurrent": 1}, lease_ms=300)
    acme = tenant(turns=1)
    async with limiting(brief) as one:
        ticket = await one.hold(one.callers("acme"), Cost())
        first_us = (await reading(brief, acme)).turns_end_us

        async def has_outlived() -> bool:
            return (await reading(brief, acme)).turns_end_us > first_us + 600_000

        await eventually(has_outlived, message="two leases more")
    async with limiting(brief) as other:

        async def is_free() -> bool:
            return (await reading(brief, acme)).turns == 0

        await eventually(is_free, message="the lease has ended")
        held = await other.hold(other.callers("acme"), Cost())
        # What comes late from the first one takes nothing from anybody.
        await other.settle(ticket, Cost())
        assert (await reading(brief, acme)).turns == 1
        await other.settle(held, Cost())
        assert (await reading(brief, acme)).turns == 0


async def test_a_caller_who_goes_while_he_asks_holds_nothing(settings: Settings) -> None:
    one_turn = limited(settings, tenant={"turns_concurrent": 1, "requests_per_minute": 60})
    async with limiting(one_turn) as limiter:
        asking = asyncio.create_task(limiter.hold(limiter.callers("acme"), Cost()))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    stands = await reading(one_turn, tenant(turns=1, requests=60))
    assert stands.turns == 0
    # It did ask.
    assert stands.requests_level > 0


async def test_a_user_who_has_no_request_left_takes_none_of_his_tenants(settings: Settings) -> None:
    both = limited(settings, tenant={"requests_per_minute": 60}, user={"requests_per_minute": 1})
    async with limiting(both) as limiter:
        await limiter.settle(await limiter.hold(limiter.callers("acme", "ann"), Cost()), Cost())
        for _ in range(5):
            with pytest.raises(IsthmusError, match="users/ann"):
                await limiter.hold(limiter.callers("acme", "ann"), Cost())
        await limiter.request("acme")
    level = (await reading(both, tenant(requests=60))).requests_level
    assert 1_000_000 < level <= 2_000_000


def test_who_is_refused_is_refused_again_without_a_trip() -> None:
    meters, acme = ClockedMeters(Clocked()), tenant(requests=1)
    ann = tenant(requests=9, kind=Kind.USER, name="ann")
    refused = RefusedCallers(1)

    async def ask() -> None:
        await meters.take([acme], Cost())
        standing = await meters.take([acme, ann], Cost())
        refused.note("acme", obstacles(standing, Cost(), 1_000), standing, 100.0)

    with pytest.raises(StopIteration):
        ask().send(None)
    found = refused.find([acme], 130.0)
    assert found
    assert [each.wait_ms for each in found[0]] == [30_000]
    # Nobody else is told of her.
    assert [reading.caller for reading in found[1].readings] == [acme]
    assert refused.find([tenant(requests=1, name="other")], 130.0) is None
    assert refused.find([acme], 160.0) is None
    assert len(refused) == 0


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6, 1.2.3.4, 10.9.9.9"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6", "1.2.3.4:5000"], "1.2.3.4"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("9.9.9.9", ["1.2.3.4"], "9.9.9.9"),
        ("::ffff:10.0.0.1", ["[2001:db8:1:2:3::4]:80"], "2001:db8:1:2::/64"),
        ("2001:db8::7", [], "2001:db8::/64"),
        ("testclient", [], ""),
        ("", ["1.2.3.4"], ""),
    ],
)
def test_an_address_is_the_last_one_that_no_trusted_proxy_is(peer: str, forwarded: list[str], address: str) -> None:
    assert caller_address(peer, forwarded, networks(["10.0.0.0/8"])) == address


@given(st.text(max_size=40), st.lists(st.text(max_size=60), max_size=3))
def test_what_anybody_sends_is_no_error(peer: str, forwarded: list[str]) -> None:
    assert len(caller_address(peer, forwarded, networks(["0.0.0.0/0", "::/0"]))) <= 43
    assert len(host_of(peer)) <= len(peer)


def test_grpc_names_its_peers_so() -> None:
    assert host_of("ipv4:127.0.0.1:5000") == "127.0.0.1"
    assert host_of("ipv6:%5B::1%5D:5000") == host_of("ipv6:[::1]:5000") == "::1"
    assert host_of("unix:/tmp/socket") == ""


@pytest.mark.parametrize(
    ("ms", "told"),
    [(0, "0ms"), (999, "999ms"), (1_000, "1s"), (1_500, "1.5s"), (60_000, "1m0s"), (372_250, "6m12.25s")],
)
def test_spans_are_told_as_openai_does(ms: int, told: str) -> None:
    assert span(ms) == told


def test_no_limits_no_headers() -> None:
    assert headers(None) == {}


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_window_costs_what_no_cache_holds_of_it(size: int, window: int) -> None:
    warm, cold = estimate(size, window, is_warm=True), estimate(size, window, is_warm=False)
    assert warm.computed >= 1
    assert cold.computed == warm.computed + window
    assert (warm.cached, cold.cached) == (window, 0)


def test_what_is_cached_is_the_engines_word_or_else_the_replicas() -> None:
    counts = turn_pb2.TokenCounts(window_tokens=100, reused_tokens=80, output_tokens=7)
    assert counted(counts) == Tokens(20, 80, 7)
    counts.cached_tokens = 0
    assert counted(counts) == Tokens(100, 0, 7)
    counts.cached_tokens = 200
    assert counted(counts) == Tokens(0, 100, 7)


def test_windows_are_remembered_within_a_bound() -> None:
    windows = Windows(2)
    for session in ("a", "b", "c"):
        windows.seen("acme", session, turn_pb2.TokenCounts(window_tokens=10, output_tokens=5))
    assert (len(windows), windows.tokens("acme", "a"), windows.tokens("acme", "c")) == (2, 0, 15)
    assert windows.tokens("other", "c") == 0
