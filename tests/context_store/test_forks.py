"""Forks: a session that begins as another one was after a turn, shares its past and goes on by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
import redis
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.session.v1 import session_pb2

from services.config import Settings
from tests.context_store.client import StoreClient, chained, refusal, user
from tests.context_store.conftest import StartShard
from tests.support.eventually import eventually


async def three_turns(store: StoreClient) -> None:
    await store.create(display_name="Mine", labels={"a": "b"})
    for number in (1, 2, 3):
        await store.turn(f"r{number}", f"question {number}", reply=f"answer {number}")


async def test_a_fork_begins_as_its_parent_was_after_a_turn(store: StoreClient) -> None:
    await three_turns(store)
    fork = await store.fork("s2", turn=2)
    shown = await fork.get()
    assert (shown.parent, shown.parent_turn, shown.revision, shown.turn_count) == ("sessions/s1", 2, 4, 2)
    assert (shown.display_name, shown.labels["a"]) == ("Mine", "b")
    assert await fork.texts() == ["question 1", "answer 1", "question 2", "answer 2"]
    turn = await fork.stub.GetTurn(api.GetTurnRequest(key=fork.key, turn=2))
    assert (turn.name, turn.output_text) == ("sessions/s2/turns/2", "answer 2")
    listed = await fork.stub.ListTurns(api.ListTurnsRequest(key=fork.key))
    assert [one.name for one in listed.turns] == ["sessions/s2/turns/1", "sessions/s2/turns/2"]


async def test_parent_and_fork_go_on_independently(store: StoreClient, start_shard: StartShard) -> None:
    await three_turns(store)
    fork = await store.fork("s2", turn=2)
    # The same request_id in both, as neither knows of the other's.
    there = await fork.turn("r3", "another question 3", reply="another answer 3")
    await store.turn("r4", "question 4", reply="answer 4")
    assert there.number == 3
    assert (await fork.texts())[4:] == ["another question 3", "another answer 3"]
    assert (await store.texts())[4:] == ["question 3", "answer 3", "question 4", "answer 4"]
    elsewhere = (await start_shard()).about("s2")
    assert await elsewhere.texts() == await fork.texts()
    assert (await elsewhere.get()).tokens == (await fork.get()).tokens


async def test_without_a_turn_all_that_is_settled_is_shared(store: StoreClient) -> None:
    await three_turns(store)
    await store.append("said outside of a turn")
    opened = await store.open("open question", request_id="r4")
    fork = await store.fork("s2")
    assert (await fork.texts())[-1] == "said outside of a turn"
    assert (await fork.get()).parent_turn == 3
    assert (await refusal(store.fork("s3", turn=4)))[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "TURN_STATE")
    assert (await refusal(store.fork("s3", turn=5)))[1] == "NOT_FOUND"
    await store.commit(opened, "late")
    assert (await fork.texts())[-1] == "said outside of a turn"


async def test_turns_that_came_to_nothing_are_void_in_the_fork_too(store: StoreClient) -> None:
    await store.create()
    await store.turn("r1", "one")
    opened = await store.open("two", request_id="r2")
    await store.stub.CancelTurn(api.CancelTurnRequest(key=store.key, turn=opened.turn.number))
    fork = await store.fork("s2", turn=2)
    assert await fork.texts() == ["one", "ok"]
    done = await fork.open("three", request_id="r3", after_turn=1)
    assert done.turn.number == 3


async def test_the_first_window_of_a_fork_has_its_parents_prefix(store: StoreClient) -> None:
    await store.create()
    for number in range(12):
        await store.turn(f"r{number}", f"question {number} " + "x" * 900, reply="y" * 900, room=4_000)
    parent = await store.open("next", request_id="next", room=4_000)
    assert parent.manifest.epoch > 1
    fork = await store.fork("s2", turn=12)
    opened = await fork.open("next", request_id="next", room=4_000)
    assert opened.manifest.prefix == parent.manifest.prefix
    assert opened.manifest.prefix.item_count > 0
    assert opened.manifest.end == parent.manifest.end
    start, items = await fork.window(opened.manifest, [opened.manifest.prefix])
    assert chained(items, start.digest) == opened.manifest.end.digest


async def test_a_fork_of_a_fork_shares_both_pasts_whatever_becomes_of_the_middle(store: StoreClient) -> None:
    await three_turns(store)
    middle = await store.fork("s2", turn=2)
    await middle.turn("m3", "middle 3", reply="answer m3")
    leaf = await middle.fork("s3")
    await leaf.turn("l4", "leaf 4", reply="answer l4")
    early = await leaf.fork("s4", turn=1)
    assert (await leaf.texts())[2:] == [
        "question 2", "answer 2", "middle 3", "answer m3", "leaf 4", "answer l4"
    ]  # fmt: skip
    assert await early.texts() == ["question 1", "answer 1"]
    receipt = await middle.delete()
    assert list(receipt.forks) == ["sessions/s3"]
    assert await leaf.texts() == ["question 1", "answer 1", "question 2", "answer 2", "leaf 4", "answer l4"]
    assert await early.texts() == ["question 1", "answer 1"]


async def test_documents_and_summaries_of_the_past_are_shared(store: StoreClient) -> None:
    await store.create()
    await store.write("book", b"A long text. " * 2_000)
    request = await store.summarise(1, 2, "in short")
    assert (await store.stub.CommitSummary(request)).created
    fork = await store.fork("s2")
    await store.write("later", b"Not of the fork.")
    document = await fork.stub.GetDocument(api.GetDocumentRequest(key=fork.key, document="book"))
    assert document.name == "sessions/s2/documents/book"
    assert {one.document for one in await fork.fragments()} == {"sessions/s2/documents/book"}
    assert (await fork.get()).summary_count == 1
    gone = fork.stub.GetDocument(api.GetDocumentRequest(key=fork.key, document="later"))
    assert (await refusal(gone))[1] == "NOT_FOUND"


async def test_what_is_erased_in_the_parent_is_erased_in_its_forks(store: StoreClient, start_shard: StartShard) -> None:
    await three_turns(store)
    fork = await store.fork("s2", turn=3)
    leaf = await fork.fork("s3")
    elsewhere = (await start_shard()).about("s3")
    await elsewhere.turn("r4", "four")
    await store.stub.DeleteFragment(api.DeleteFragmentRequest(key=store.key, sequence=3))
    for one in (store, fork, leaf, elsewhere):
        assert "question 2" not in await one.texts()
    # A fork erases for itself and its own forks.
    await fork.stub.DeleteFragment(api.DeleteFragmentRequest(key=fork.key, sequence=2))
    assert "answer 1" not in await fork.texts()
    assert (await fork.stub.GetTurn(api.GetTurnRequest(key=fork.key, turn=1))).output_text == ""
    assert "answer 1" in await store.texts()
    assert "answer 1" not in await leaf.texts()


async def test_the_same_fork_id_forks_once(store: StoreClient) -> None:
    await three_turns(store)
    await store.fork("s2", turn=2, fork_id=b"the-same")
    await (await store.fork("s2", turn=2, fork_id=b"the-same")).turn("r3", "three")
    assert (await refusal(store.fork("s2", turn=2)))[1] == "ALREADY_EXISTS"
    assert (await store.about("s2").get()).turn_count == 3


@pytest.mark.leaves("the ancestor is taken away by hand")
async def test_an_ancestor_that_is_gone_reads_as_erased(
    store: StoreClient, start_shard: StartShard, settings: Settings
) -> None:
    """A shard that died between a fork's making and its last look at the parent leaves just this."""
    await three_turns(store)
    fork = await store.fork("s2", turn=2)
    await fork.turn("r3", "mine", reply="too")
    client = redis.Redis.from_url(settings.valkey.url)
    client.delete("isthmus:{acme/s1}:meta", "isthmus:{acme/s1}:log")
    client.close()
    elsewhere = (await start_shard()).about("s2")
    assert await elsewhere.texts() == ["mine", "too"]
    assert (await elsewhere.turn("r4", "on")).number == 4


@pytest.mark.parametrize("pinned", [True, False])
async def test_a_fork_without_its_parent_keeps_its_own_part(
    store: StoreClient, start_shard: StartShard, pinned: bool
) -> None:
    await store.create()
    await store.turn("r1", user("rules", pinned=pinned), reply="z" * 3_000, room=4_000)
    for number in range(2, 8):
        await store.turn(f"r{number}", "x" * 900, reply="y" * 900, room=4_000)
    fork = await store.fork("s2")
    await fork.turn("mine", "my own", reply="part", room=4_000)
    receipt = await store.delete()
    assert list(receipt.forks) == ["sessions/s2"]
    elsewhere = (await start_shard()).about("s2")
    for one in (fork, elsewhere):
        assert await one.texts() == ["my own", "part"]
        assert (await one.get()).parent == ""
        listed = await one.stub.ListTurns(api.ListTurnsRequest(key=one.key, page_size=2))
        assert [turn.number for turn in listed.turns] == [8]
    opened = await fork.open("more", request_id="more", room=4_000)
    _, items = await elsewhere.window(opened.manifest)
    assert [item.text for item in items] == ["my own", "part", "more"]


async def test_the_cost_of_a_fork_does_not_grow_with_the_text(store: StoreClient, settings: Settings) -> None:
    await store.create()
    await store.write("book", b"A long text. " * 100_000)
    client: Any = redis.Redis.from_url(settings.valkey.url)
    before = client.info("stats")["total_net_input_bytes"]
    await store.fork("s2")
    assert client.info("stats")["total_net_input_bytes"] - before < 100_000
    assert client.memory_usage("isthmus:{acme/s2}:meta") < 4_096
    client.close()


async def test_a_fork_of_a_cold_session_brings_it_back(start_shard: StartShard, settings: Settings) -> None:
    quick = settings.tiering.model_copy(update={"idle_ms": 1, "janitor_interval_ms": 20})
    store = await start_shard(settings.model_copy(update={"tiering": quick}))
    await three_turns(store)

    async def tier() -> str:
        return session_pb2.Tier.Name((await store.get()).tier)

    await eventually(_is(tier, "TIER_OBJECT"))
    fork = await store.fork("s2", turn=1)
    assert await fork.texts() == ["question 1", "answer 1"]


def _is(ask: Callable[[], Awaitable[str]], wanted: str) -> Callable[[], Awaitable[bool]]:
    async def is_so() -> bool:
        return await ask() == wanted

    return is_so
