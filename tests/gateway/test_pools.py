"""Pools of providers that fail: each turn succeeds elsewhere or fails clearly within its deadline, in few calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count

import grpc.aio
import httpx
import pytest
import pytest_asyncio
from isthmus.errors.v1 import errors_pb2
from isthmus.gateway.v1 import pool_service_pb2 as contract
from isthmus.gateway.v1.pool_service_pb2_grpc import PoolServiceStub
from isthmus.session.v1 import turn_pb2

from gateway.access import needs
from gateway.pools.pools import Pools
from services.access import Scope
from services.config import Settings
from services.errors import IsthmusError, from_rpc_error
from tests.gateway.client import Client, connected, turn_request
from tests.support.eventually import eventually
from tests.support.faulty_provider import TEXT, FaultyProvider, faulty_provider
from tests.support.mesh import Mesh, changed, running_mesh

UNAVAILABLE = errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
OVERLOADED = errors_pb2.ERROR_REASON_OVERLOADED
NUMBERS = count()
# Turns at once, where there are many.
TOGETHER = 20


@dataclass
class Pooled:
    """A mesh of two pools, `alpha` of OpenAI's shape and `beta` of Anthropic's, with a client."""

    mesh: Mesh
    client: Client
    alpha: FaultyProvider
    beta: FaultyProvider

    @property
    def pools(self) -> Pools:
        pools = self.mesh.gateway.pools
        assert pools is not None
        return pools

    async def outcome(self, model: str = "auto", text: str = "Say it.") -> turn_pb2.Turn | IsthmusError:
        """A turn in a session of its own."""
        session = f"s{next(NUMBERS)}"
        await self.client.create(session)
        return await self.client.outcome(turn_request(session, text, model=model))

    async def turn(self, model: str = "auto", text: str = "Say it.") -> turn_pb2.Turn:
        outcome = await self.outcome(model, text)
        assert isinstance(outcome, turn_pb2.Turn), outcome
        return outcome


@pytest.fixture
def pooled_settings(quick: Settings) -> Settings:
    """Routes by task, tenant and size; little patience."""
    gateway = {
        "upstream_wait_ms_max": 500,
        "pools": {
            "alpha": {"tier": "large", "region": "here", "first_text_ms_max": 2_000},
            "beta": {
                "tier": "outside",
                "first_text_ms_max": 5_000,
                "prices": {"input_per_million": 1.0, "output_per_million": 5.0},
            },
        },
        "routes": {
            "auto": {
                "rules": [
                    {"tasks": ["careful"], "pools": ["beta"]},
                    {"tenants": ["nobody"], "pools": ["beta"]},
                    {"tokens_min": 300, "pools": ["tier:outside"]},
                    {"pools": ["alpha", "beta"]},
                ]
            }
        },
        "resilience": {
            "drains_poll_ms": 50,
            "breaker": {"window_ms": 60_000, "open_ms_min": 300},
            "retry": {"wait_ms_min": 10},
        },
    }
    return changed(quick, "gateway", **gateway)


@pytest_asyncio.fixture
async def pooled(pooled_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pooled]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret-of-anthropic")
    async with (
        faulty_provider() as alpha,
        faulty_provider() as beta,
        running_mesh(pooled_settings, shards=1, replicas=0, gateways=0) as mesh,
    ):
        common = {"context_tokens_max": 32_768}
        to_alpha = f"openai-chat:http://127.0.0.1:{alpha.port}"
        to_beta = f"anthropic:http://127.0.0.1:{beta.port}"
        await mesh.add_replica(0, changed(pooled_settings, "inference", engine=to_alpha, pool="alpha", **common))
        claude = changed(pooled_settings, "anthropic", model="claude")
        await mesh.add_replica(1, changed(claude, "inference", engine=to_beta, pool="beta", **common))
        await mesh.settled("inference", 2)
        await mesh.add_gateway(0)
        async with connected(mesh.grpc_target) as client:
            yield Pooled(mesh, client, alpha, beta)


async def test_a_route_sends_turns_by_task_and_size(pooled: Pooled) -> None:
    turn = await pooled.turn()
    assert (turn.output_text, turn.receipt.pool, turn.model) == (TEXT, "alpha", "auto")
    assert (await pooled.turn("auto:careful")).receipt.pool == "beta"
    assert (await pooled.turn(text="A long story. " * 200)).receipt.pool == "beta"
    assert pooled.beta.keys == ["secret-of-anthropic"] * 2
    (asked, _), [system] = pooled.beta.bodies, pooled.alpha.bodies
    assert asked["messages"][-1]["content"][0]["text"] == "Say it."
    assert system["messages"][-1] == {"role": "user", "content": "Say it."}
    await pooled.client.create("labelled")
    labelled = turn_request("labelled", "Say it.", model="auto", labels={"task": "careful"})
    assert (await pooled.client.turn(labelled)).receipt.pool == "beta"
    direct = await pooled.turn("claude")
    assert (direct.receipt.pool, direct.output_text) == ("beta", TEXT)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 401},
        {"status": 429, "headers": {"retry-after": "30"}},
        {"status": 529},
        {"delay_s": 30.0},
        {"words": 0},
        {"words": 0, "hangs": True},
    ],
    ids=lambda fault: "-".join(f"{name}={value}" for name, value in fault.items() if name != "headers"),
)
async def test_whatever_one_provider_does_the_turn_succeeds_elsewhere(pooled: Pooled, fault: dict[str, object]) -> None:
    for name, value in fault.items():
        setattr(pooled.alpha, name, value)
    turn = await pooled.turn()
    assert (turn.output_text, turn.receipt.pool) == (TEXT, "beta")
    assert (pooled.alpha.calls, pooled.beta.calls) == (1, 1)


async def test_a_reply_that_breaks_off_goes_on_at_the_other_provider(pooled: Pooled) -> None:
    pooled.alpha.words = 7
    turn = await pooled.turn()
    assert turn.output_text == TEXT
    [continuation] = turn.receipt.continuations
    assert (continuation.replica, turn.receipt.pool) == ("inference-1", "beta")
    begun = pooled.beta.bodies[-1]["messages"][-1]
    assert begun == {"role": "assistant", "content": [{"type": "text", "text": "One provider may fail in the middle"}]}
    # And back again, to one that takes plain text.
    pooled.alpha.well()
    pooled.beta.words = 3
    careful = await pooled.outcome("auto:careful")
    assert isinstance(careful, IsthmusError), "its rule has no other pool"
    assert careful.reason == UNAVAILABLE


async def test_a_provider_with_too_many_requests_hears_nothing_until_its_time(pooled: Pooled) -> None:
    pooled.alpha.status, pooled.alpha.headers = 429, {"retry-after": "60"}
    turns = [await pooled.turn() for _ in range(5)]
    assert {turn.receipt.pool for turn in turns} == {"beta"}
    assert pooled.alpha.calls == 1
    pooled.beta.status, pooled.beta.headers = 429, {"retry-after": "45"}
    refused = await pooled.outcome()
    again = await pooled.outcome()
    assert isinstance(refused, IsthmusError)
    assert isinstance(again, IsthmusError)
    assert refused.reason == again.reason == OVERLOADED
    assert 40_000 < (again.retry_after_ms or 0) <= 45_000, "the sooner of the two"
    assert "alpha has as many calls as it takes" in again.message
    assert (pooled.alpha.calls, pooled.beta.calls) == (1, 6)


async def test_what_a_provider_has_left_is_all_that_it_gets(pooled: Pooled) -> None:
    pooled.alpha.headers = {"x-ratelimit-remaining-requests": "2", "x-ratelimit-reset-requests": "1m0s"}
    await pooled.turn()
    pooled.alpha.headers = {}
    turns = [await pooled.turn() for _ in range(4)]
    assert [turn.receipt.pool for turn in turns] == ["alpha", "alpha", "beta", "beta"]


@pytest.mark.parametrize("fault", [{"status": 500}, {"words": 2}], ids=["failing", "breaking off"])
async def test_a_pool_that_begins_to_fail_costs_no_turn_where_another_one_is_well(
    pooled: Pooled, fault: dict[str, object]
) -> None:
    for _ in range(20):
        await pooled.turn()
    assert pooled.beta.calls == 0
    for name, value in fault.items():
        setattr(pooled.alpha, name, value)
    # More than the budget would give, were it not given back.
    turns = [await pooled.turn() for _ in range(30)]
    assert {each.output_text for each in turns} == {TEXT}
    assert pooled.alpha.calls - 20 < 15, "the breaker did not wait for as many failures as there had been successes"


@pytest.mark.parametrize(
    ("fault", "together"),
    [
        ({"status": 500}, False),
        ({"status": 500}, True),
        ({"words": 2}, True),
        ({"words": 0, "hangs": True}, True),
        ({"status": 429, "headers": {"retry-after": "1"}}, False),
    ],
    ids=["failing one by one", "failing at once", "breaking off", "hanging", "refusing"],
)
async def test_when_all_fails_turns_fail_clearly_and_calls_stay_few(
    pooled: Pooled, fault: dict[str, object], together: bool
) -> None:
    turns = 100
    for name, value in fault.items():
        setattr(pooled.alpha, name, value)
        setattr(pooled.beta, name, value)
    places = asyncio.Semaphore(TOGETHER)
    if together:
        outcomes = await asyncio.gather(*(_one_of(pooled, places) for _ in range(turns)))
    else:
        outcomes = [await pooled.outcome() for _ in range(turns)]
    errors = [each for each in outcomes if isinstance(each, IsthmusError)]
    assert len(errors) == turns
    assert {each.reason for each in errors} <= {UNAVAILABLE, OVERLOADED}
    assert all(each.retry_after_ms for each in errors)
    calls = pooled.alpha.calls + pooled.beta.calls
    assert 1 <= calls <= 1.2 * turns
    # On a machine that is busy a turn may not even be opened.
    assert turns / 2 < pooled.pools.turns <= turns
    assert sum(pool.counts.calls for pool in pooled.pools.known()) >= calls
    pooled.alpha.well()

    async def recovers() -> bool:
        return isinstance(await pooled.outcome(), turn_pb2.Turn)

    await eventually(recovers, message="the breaker lets a call through, and closes")


async def _one_of(pooled: Pooled, places: asyncio.Semaphore) -> turn_pb2.Turn | IsthmusError:
    async with places:
        return await pooled.outcome()


async def test_a_slow_call_gets_company_and_the_slower_one_is_ended(pooled: Pooled) -> None:
    alpha = pooled.pools.get("alpha")
    for _ in range(50):
        alpha.latency.add(0.05, 0.0)
    pooled.alpha.delay_s = 0.9
    turn = await pooled.turn()
    assert (turn.output_text, turn.receipt.pool) == (TEXT, "beta")
    assert not turn.receipt.continuations
    assert alpha.counts.hedges == 0
    assert pooled.pools.get("beta").counts.hedges == 1
    await eventually(lambda: pooled.alpha.left == 1, message="the first call is given up")
    assert alpha.limit.in_flight == 0


async def test_a_pool_is_drained_by_hand_at_every_gateway(pooled: Pooled) -> None:
    other = await pooled.mesh.add_gateway(1)
    async with grpc.aio.insecure_channel(pooled.mesh.grpc_target) as channel, connected(other.address) as elsewhere:
        service = PoolServiceStub(channel)
        drained = await service.DrainPool(contract.DrainPoolRequest(name="pools/alpha"))
        assert drained.HasField("drain_time")
        assert (await pooled.turn()).receipt.pool == "beta"

        async def follows() -> bool:
            session = f"s{next(NUMBERS)}"
            await elsewhere.create(session)
            return (await elsewhere.turn(turn_request(session, "Say it.", model="auto"))).receipt.pool == "beta"

        await eventually(follows, message="the other gateway follows")
        await service.DrainPool(contract.DrainPoolRequest(name="pools/beta"))
        nowhere = await pooled.outcome()
        assert isinstance(nowhere, IsthmusError)
        assert nowhere.metadata["standing"] == "alpha=drained,beta=drained"
        assert nowhere.reason == UNAVAILABLE
        for name in ("alpha", "beta"):
            resumed = await service.ResumePool(contract.ResumePoolRequest(name=f"pools/{name}"))
            assert not resumed.HasField("drain_time")
        assert (await pooled.turn()).receipt.pool == "alpha"


async def test_pools_tell_how_they_do(pooled: Pooled) -> None:
    await pooled.turn()
    await pooled.turn("auto:careful")
    pooled.alpha.status = 500
    for _ in range(5):
        await pooled.turn()
    async with grpc.aio.insecure_channel(pooled.mesh.grpc_target) as channel:
        service = PoolServiceStub(channel)
        listed = await service.ListPools(contract.ListPoolsRequest())
        assert ([pool.name for pool in listed.pools], listed.gateway) == (["pools/alpha", "pools/beta"], "gateway-0")
        alpha, beta = listed.pools
        assert (alpha.tier, alpha.region, alpha.calls) == ("large", "here", pooled.alpha.calls)
        # It opens after four of them; one may have been the probe of a while later.
        assert 4 <= alpha.calls_failed == alpha.calls - 1
        assert alpha.breaker in (contract.BREAKER_STATE_OPEN, contract.BREAKER_STATE_HALF_OPEN)
        assert [each.member for each in alpha.replicas] == ["inference-0"]
        assert beta.ttft_p95_ms > 0 < beta.cost
        assert (beta.calls_in_flight, beta.calls_failed) == (0, 0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.DrainPool(contract.DrainPoolRequest(name="pools/gamma"))
        assert from_rpc_error(caught.value).reason == errors_pb2.ERROR_REASON_NOT_FOUND
    async with httpx.AsyncClient(base_url=pooled.mesh.http_url) as http:
        told = (await http.get("/metrics")).text
        models = [each["id"] for each in (await http.get("/v1/models")).json()["data"]]
    assert 'isthmus_pool_breaker_state{pool="beta"} 0.0' in told
    assert f'isthmus_pool_calls_failed_total{{pool="alpha"}} {alpha.calls_failed:.1f}' in told
    assert "isthmus_pool_turns_total 7.0" in told
    assert [each for each in models if not each.startswith("wordllama")] == ["auto", "big", "claude"]


def test_only_an_administrator_drains() -> None:
    assert {needs.of_rpc(f"/isthmus.gateway.v1.PoolService/{name}") for name in contract_rpcs()} == {Scope.ADMIN}


def contract_rpcs() -> list[str]:
    """The names of the service's rpcs."""
    return [method.name for method in contract.DESCRIPTOR.services_by_name["PoolService"].methods]
