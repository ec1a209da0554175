"""What replicas serve, as the gateway tells it, and which of them it picks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1.turn_pb2 import Placement
from redis.asyncio import Redis

from gateway.models.replicas import Replicas
from services.config import GatewaySettings, Settings
from services.errors import IsthmusError
from services.lifecycle import State
from services.membership import Member, View
from services.router import INFERENCE, Router
from services.rpc import Channels

TOKENIZER = bytes(range(16))


class KnownView(View):
    """A view whose members the test decides; it polls nothing."""

    def show(self, *members: Member) -> None:
        self._see(INFERENCE, {member.id: member for member in members}, keep=False)


def replica(number: int, model: str, *adapters: str, load: int = 0, beat: int = 1) -> Member:
    labels = {
        "model": model,
        "adapters": ",".join(adapters),
        "tokenizer": TOKENIZER.hex(),
        "context_tokens_max": "8192",
        "overhead_tokens": "6",
        "max_output_tokens_default": "512",
    }
    return Member(f"replica-{number}", INFERENCE, f"127.0.0.1:{number + 1}", State.READY, 1.0, labels, beat, load)


@pytest.fixture
def view(settings: Settings) -> KnownView:
    return KnownView(Redis(), settings.membership)


@pytest_asyncio.fixture
async def router(view: KnownView, settings: Settings) -> AsyncIterator[Router]:
    channels = Channels(settings.rpc, "gateway")
    yield Router(view, channels, settings.membership)
    await channels.aclose()


async def test_adapters_are_models_that_are_never_the_default(view: KnownView, router: Router) -> None:
    replicas = Replicas(view, router, GatewaySettings())
    view.show(replica(0, "small", "pirate"), replica(1, "large", "poet", "pirate"))
    assert [limits.name for limits in replicas.models()] == ["large", "pirate", "poet", "small"]
    assert replicas.limits("").name == "large"
    assert replicas.limits("pirate").name == "pirate"
    assert replicas.limits("pirate").tokenizer == TOKENIZER
    with pytest.raises(IsthmusError, match="expected one of large, pirate, poet, small") as caught:
        replicas.limits("prose")
    assert caught.value.reason == errors_pb2.ERROR_REASON_MODEL_NOT_FOUND


async def test_an_adapter_goes_to_a_replica_that_has_it(view: KnownView, router: Router) -> None:
    replicas = Replicas(view, router, GatewaySettings())
    view.show(replica(0, "small", "pirate"), replica(1, "small"))
    picked = [replicas.pick("t", f"s{number}", "pirate") for number in range(20)]
    assert {each.member_id for each in picked} == {"replica-0"}
    assert {each.tokenizer for each in picked} == {TOKENIZER}
    assert not replicas.is_other("pirate", {"replica-0"})
    assert replicas.is_other("small", {"replica-0"})


async def test_announced_load_sends_a_session_to_where_it_is_warm(view: KnownView, router: Router) -> None:
    replicas = Replicas(view, router, GatewaySettings(spill_requests_count_min=2))
    names = [f"replica-{number}" for number in range(3)]
    view.show(*(replica(number, "small") for number in range(3)))
    home = replicas.pick("t", "s", "small")
    assert home.choice.reason == Placement.REASON_OWNER
    replicas.release(home)
    view.show(*(replica(each, "small", load=9 * (name == home.member_id), beat=2) for each, name in enumerate(names)))
    spilled = replicas.pick("t", "s", "small")
    replicas.release(spilled)
    assert (spilled.choice.owner, spilled.choice.reason) == (home.member_id, Placement.REASON_SPILLED)
    [other] = {*names} - {home.member_id, spilled.member_id}
    replicas.served("t", "s", replace(spilled, member_id=other))
    assert replicas.pick("t", "s", "small").member_id == other


async def test_a_session_is_warm_while_the_replica_that_served_it_is_there(view: KnownView, router: Router) -> None:
    replicas = Replicas(view, router, GatewaySettings())
    view.show(replica(0, "small"), replica(1, "small"))
    assert not replicas.is_warm("t", "s")
    picked = replicas.pick("t", "s", "small")
    replicas.served("t", "s", picked)
    assert replicas.is_warm("t", "s")
    assert not replicas.is_warm("other", "s")
    view.show(*[each for each in (replica(0, "small"), replica(1, "small")) if each.id != picked.member_id])
    assert not replicas.is_warm("t", "s")


async def test_every_replica_full_is_unavailable_with_a_time_to_retry(view: KnownView, router: Router) -> None:
    replicas = Replicas(view, router, GatewaySettings())
    view.show(replica(0, "small"))
    with pytest.raises(IsthmusError, match="is full") as caught:
        replicas.pick("t", "s", "small", {"replica-0"})
    assert caught.value.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    assert caught.value.retry_after_ms
