"""Cached answers through a whole mesh: given, marked, kept apart, told wrong, and there when no replica is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import httpx
import pytest
import pytest_asyncio
from isthmus.errors.v1 import errors_pb2
from isthmus.gateway.v1 import cache_service_pb2
from isthmus.gateway.v1.cache_service_pb2_grpc import CacheServiceStub
from isthmus.session.v1 import message_pb2, session_service_pb2, turn_pb2

from services.cli import cache
from services.cli.target import Target
from services.config import Settings
from services.errors import IsthmusError
from services.router import INFERENCE
from tests.gateway.client import Client, connected, turn_request, user
from tests.support.mesh import Mesh, changed, running_mesh

Kind = turn_pb2.CacheUse.Kind
Policy = session_service_pb2.CachePolicy
FIXED = message_pb2.SamplingParams(temperature=0)
CACHES = {"exact": "on", "semantic": {"*": "strict"}, "strict_score_min": 0.7, "wait_ms_max": 30_000}


@pytest_asyncio.fixture
async def cached(quick: Settings) -> AsyncIterator[Mesh]:
    """Two gateways that cache what is asked at temperature 0."""
    async with running_mesh(changed(quick, "gateway", caches=CACHES), shards=1, replicas=1, gateways=2) as mesh:
        yield mesh


async def ask(client: Client, session: str, text: str, *, system: str = "", **fields: Any) -> turn_pb2.Turn:
    """A turn at temperature 0 on a session of its own, unless `params` say otherwise."""
    await client.create(session)
    fields.setdefault("params", FIXED)
    request = turn_request(session, text, **fields)
    if system:
        request.messages.insert(0, message_pb2.Message(role=message_pb2.ROLE_SYSTEM, text=system))
    return await client.turn(request)


def kind(turn: turn_pb2.Turn) -> turn_pb2.CacheUse.Kind.ValueType:
    """How a turn was given its reply; unspecified if it was generated."""
    return turn.receipt.cache.kind


async def test_a_question_that_asks_the_same_is_given_the_answer_by_any_gateway(cached: Mesh) -> None:
    async with connected(cached.grpc_target) as client, connected(cached.gateway_room(1).address) as other:
        made = await ask(client, "s1", "How do I reset the router in the hall?")
        assert not made.receipt.HasField("cache")
        given = await ask(client, "s2", "How do I reset the router in the hall?")
        assert (kind(given), given.receipt.cache.score) == (Kind.KIND_EXACT, 1.0)
        # What another gateway has kept is in the index of this one, too.
        alike = await ask(other, "s3", "how do i reset the router in the hall")
        assert kind(alike) == Kind.KIND_SEMANTIC
        assert 0.7 <= alike.receipt.cache.score < 1
        assert given.output_text == alike.output_text == made.output_text
        assert given.receipt.cache.source_turn == alike.receipt.cache.source_turn == made.name
        assert not any(hop.name == "gateway.inference" for hop in alike.receipt.hops)
        assert alike.receipt.tokens.output_tokens == 0
        # The log is the truth of a cached answer as of any other.
        assert await client.texts("s3") == ["how do i reset the router in the hall", made.output_text]
        stored = await client.get_turn("sessions/s3/turns/1")
        assert stored.receipt.cache == alike.receipt.cache


async def test_nothing_crosses_and_nothing_is_given_that_was_not_wanted(cached: Mesh) -> None:
    text = "How do I reset the router in the hall?"
    async with connected(cached.grpc_target) as client:
        await ask(client, "s1", text)
        others = {
            "another system prompt": await ask(client, "s2", text, system="Be brief."),
            "other parameters": await ask(
                client, "s3", text, params=message_pb2.SamplingParams(temperature=0, max_output_tokens=9)
            ),
            "sampled": await ask(client, "s4", text, params=message_pb2.SamplingParams(temperature=1)),
            "refused": await ask(client, "s5", text, cache=Policy(mode=Policy.MODE_OFF)),
            "another number": await ask(client, "s6", "How do I reset the router in the hall 2?"),
        }
        assert [name for name, turn in others.items() if turn.receipt.HasField("cache")] == []
        # It rests on what came before it, whatever it says.
        followed = await client.turn(turn_request("s2", text, params=FIXED))
        assert not followed.receipt.HasField("cache")
        asked = await ask(client, "s8", text, params=None, cache=Policy(mode=Policy.MODE_EXACT))
        again = await ask(client, "s9", text, params=None, cache=Policy(mode=Policy.MODE_EXACT))
        assert [kind(asked), kind(again)] == [Kind.KIND_UNSPECIFIED, Kind.KIND_EXACT]


async def test_an_answer_that_was_told_wrong_is_gone_and_the_report_says_so(
    cached: Mesh, capsys: pytest.CaptureFixture[str]
) -> None:
    async with connected(cached.grpc_target) as client, grpc.aio.insecure_channel(cached.grpc_target) as channel:
        caches = CacheServiceStub(channel)
        made = await ask(client, "s1", "How do I reset the router in the hall?")
        given = await ask(client, "s2", "how do i reset the router in the hall")
        assert kind(given) == Kind.KIND_SEMANTIC
        for _ in range(2):
            told = await caches.MarkWrong(cache_service_pb2.MarkWrongRequest(turn=given.name))
            assert told.source_turn == made.name
        anew = await ask(client, "s3", "How do I reset the router in the hall?")
        assert not anew.receipt.HasField("cache")
        # The source's question has its answer again, and the other one is not given it.
        never = await ask(client, "s4", "how do i reset the router in the hall")
        assert not never.receipt.HasField("cache")
        await ask(client, "s5", "How do I reset the router in hall 7?")

        report = await caches.GetCacheReport(cache_service_pb2.GetCacheReportRequest())
        assert (report.lookups, report.hits_exact, report.hits_semantic, report.wrong) == (5, 0, 1, 1)
        assert dict(report.refused) == {"told_wrong": 1, "numbers": 1}
        assert (report.entries, report.scopes, report.kept) == (3, 1, 4)
        await asyncio.to_thread(cache.report, Target(cached.grpc_target), as_json=True)
        assert json.loads(capsys.readouterr().out)["refused"] == {"told_wrong": 1, "numbers": 1}
        await asyncio.to_thread(cache.wrong, "s2/1", Target(cached.grpc_target), as_json=False)
        assert made.name in capsys.readouterr().out
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await caches.MarkWrong(cache_service_pb2.MarkWrongRequest(turn=made.name))
        assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_what_is_erased_is_not_given_any_more(cached: Mesh) -> None:
    async with connected(cached.grpc_target) as client:
        await ask(client, "s1", "How do I reset the router in the hall?")
        await client.stub.DeleteSession(session_service_pb2.DeleteSessionRequest(name="sessions/s1"))
        assert not (await ask(client, "s2", "How do I reset the router in the hall?")).receipt.HasField("cache")


async def test_http_asks_by_a_header_and_is_told_by_one(cached: Mesh) -> None:
    async with httpx.AsyncClient(base_url=cached.http_url, timeout=60) as http:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "How do I reset the router?"}]}
        chat = [await http.post("/v1/chat/completions", json=body, headers={"Isthmus-Cache": "exact"}) for _ in "12"]
        assert [each.headers.get("isthmus-cache") for each in chat] == [None, "hit; kind=exact; score=1.0000"]
        asked = {"model": "scripted", "input": "How can I reset the router?"}
        responses = [
            await http.post("/v1/responses", json=asked, headers={"Isthmus-Cache": mode})
            for mode in ("semantic", "semantic", "off", "rather not")
        ]
        assert [each.status_code for each in responses] == [200, 200, 200, 400]
        assert [each.headers.get("isthmus-cache", "")[:15] for each in responses] == ["", "hit; kind=exact", "", ""]
        assert responses[3].json()["error"]["param"] == "Isthmus-Cache"


async def test_a_stream_from_the_cache_says_so_in_its_headers(cached: Mesh) -> None:
    async with httpx.AsyncClient(base_url=cached.http_url, timeout=60) as http:
        chat = {"model": "scripted", "messages": [{"role": "user", "content": "How do I reset it?"}], "stream": True}
        response = {"model": "scripted", "input": "How can I reset the router?", "stream": True}
        for path, body in (("/v1/chat/completions", chat), ("/v1/responses", response)):
            told = []
            for mode in ("exact", "exact", "off"):
                async with http.stream("POST", path, json=body, headers={"Isthmus-Cache": mode}) as answer:
                    text = (await answer.aread()).decode()
                    told.append(answer.headers.get("isthmus-cache"))
                    assert answer.status_code == 200
                    assert ("[DONE]" if "chat" in path else "response.completed") in text
            assert told == [None, "hit; kind=exact; score=1.0000", None]


async def test_a_cached_answer_is_checked_by_whoever_gives_it_and_kept_as_it_was_read(
    cached: Mesh, quick: Settings
) -> None:
    text = "How do I reset the router?"
    async with connected(cached.grpc_target) as client:
        made = await ask(client, "s1", text)
        word = next(each for each in made.output_text.split() if each.isalpha() and len(each) > 3)
        forbidden = {"forbidden": "redact", "forbidden_words": [word]}
        room = await cached.add_gateway(2, changed(quick, "gateway", caches=CACHES, validation=forbidden))
        strict = {"forbidden": "retry", "forbidden_words": [word], "retries_count_max": 8}
        other = await cached.add_gateway(3, changed(quick, "gateway", caches=CACHES, validation=strict))
        async with connected(room.address) as checked, connected(other.address) as retrying:
            given = await ask(checked, "s2", text)
            assert kind(given) == Kind.KIND_EXACT
            assert word not in given.output_text.split()
            # What is refused is made anew, and told as what it is.
            await retrying.create("s3")
            events = await retrying.events(turn_request("s3", text, params=FIXED))
            assert [each.WhichOneof("event") for each in events if each.HasField("source")] == ["source"]
            assert not events[-1].done.turn.receipt.HasField("cache")
            assert word not in events[-1].done.turn.output_text.split()
            # A gateway that checks nothing is given what the client of one that does has read.
            read = await ask(checked, "s4", "Which way does it cross?")
            again = await ask(client, "s5", "Which way does it cross?")
            assert again.output_text == read.output_text
            assert kind(again) == Kind.KIND_EXACT


async def test_a_stale_answer_is_given_where_no_replica_is_left(quick: Settings) -> None:
    settings = changed(
        quick, "gateway", caches={"serve_when_down": True, "wait_ms_max": 5_000}, upstream_wait_ms_max=200
    )
    async with running_mesh(settings, shards=1, replicas=1) as mesh, connected(mesh.grpc_target) as client:
        text = "How do I reset the router?"
        made = await ask(client, "s1", text, params=None)
        fresh = await ask(client, "s2", text, params=None)
        assert not fresh.receipt.HasField("cache")
        await mesh.remove(f"{INFERENCE}-0")
        await mesh.settled(INFERENCE, 0)
        await asyncio.gather(client.create("s3"), client.create("s4"))
        stale = await client.turn(turn_request("s3", text))
        assert kind(stale) == Kind.KIND_STALE
        assert stale.output_text == fresh.output_text or stale.output_text == made.output_text
        with pytest.raises(IsthmusError) as down:
            await client.turn(turn_request("s4", "Never asked before?"))
        assert down.value.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
        refused = session_service_pb2.RunTurnRequest(
            session="sessions/s4", messages=[user(text)], cache=Policy(mode=Policy.MODE_OFF)
        )
        assert isinstance(await client.outcome(refused), IsthmusError)
