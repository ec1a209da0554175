"""Replies that are judged as a whole, through a whole mesh: what is refused is nowhere, and another one is made."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, turn_pb2

from services.config import Settings
from services.errors import IsthmusError
from tests.gateway.client import Client, connected, kinds, text_of, turn_request
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, changed, running_mesh

ALL_WORDS = (
    "the narrow way between two lands carries what has changed and nothing else so a long story stays where it was "
    "told while each new word crosses on its own and comes back with an answer that knows all of it"
)
PRICES = {"*": {"input_micros": 10_000_000, "cached_input_micros": 1_000_000, "output_micros": 100_000_000}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 5}}, "required": ["n"]}


@pytest_asyncio.fixture
async def plain(quick: Settings) -> AsyncIterator[Mesh]:
    """A gateway that checks nothing, to which others are added."""
    async with running_mesh(quick, shards=1, replicas=1) as mesh:
        yield mesh


async def phrase(client: Client, session: str) -> str:
    """Two words that the scripted engine says one after the other to `Where?`, and hardly ever again."""
    await client.create(session)
    words = (await client.turn(turn_request(session, "Where?"))).output_text.split()
    return " ".join(words[3:5])


async def test_a_refused_reply_is_made_anew_and_read_by_nobody(plain: Mesh, quick: Settings) -> None:
    async with connected(plain.grpc_target) as client:
        said = await phrase(client, "s0")
    validation = {"forbidden": "retry", "forbidden_words": [said]}
    settings = changed(quick, "gateway", validation=validation, limits={"prices": PRICES})
    room = await plain.add_gateway(1, settings)
    async with connected(room.address) as client:
        await client.create("s1")
        events = await client.events(turn_request("s1", "Where?"))
        turn = events[-1].done.turn
        assert said not in turn.output_text
        assert text_of(events) == turn.output_text == (await client.texts("s1"))[1] != ""
        # The refused try is told, and its text is not.
        assert kinds(events).count("refused") == 1
        assert kinds(events).index("refused") < kinds(events).index("delta")
        [tried] = turn.receipt.refused_tries
        assert (tried.check, tried.kind, tried.replica) == ("forbidden", "word", "inference-0")
        assert tried.tokens.window_tokens == turn.receipt.tokens.window_tokens > 0
        assert 0 < tried.tokens.output_tokens <= 24
        assert not turn.receipt.findings
        # It was paid for.
        tokens = turn.receipt.tokens.output_tokens + tried.tokens.output_tokens
        assert turn.receipt.cost.micros >= 100 * tokens
        assert (await client.get_turn(turn.name)).receipt == turn.receipt
        again = await client.attached(turn.name)
        assert text_of(again) == turn.output_text


async def test_tries_that_are_used_up_fail_the_turn_or_are_told(plain: Mesh, quick: Settings) -> None:
    validation: dict[str, Any] = {"forbidden": "retry", "forbidden_patterns": ["[a-z]{3}"]}
    blocking = await plain.add_gateway(1, changed(quick, "gateway", validation=validation))
    validation |= {"retries_over": "flag", "retries_count_max": 1}
    telling = await plain.add_gateway(2, changed(quick, "gateway", validation=validation))
    redacting = await plain.add_gateway(
        3, changed(quick, "gateway", validation=validation | {"retries_over": "redact"})
    )
    async with connected(blocking.address) as client:
        await client.create("s1")
        blocked = await client.outcome(turn_request("s1", "Where?"))
        assert isinstance(blocked, IsthmusError)
        assert blocked.reason == errors_pb2.ERROR_REASON_CONTENT_BLOCKED
        assert "3 tries" in blocked.message
        assert await client.texts("s1") == []
        turn = await client.get_turn("sessions/s1/turns/1")
        assert (turn.state, turn.output_text) == (turn_pb2.Turn.STATE_FAILED, "")
    async with connected(telling.address) as client:
        await client.create("s2")
        turn = await client.turn(turn_request("s2", "Where?"))
        [finding] = turn.receipt.findings
        assert (finding.check, finding.action) == ("forbidden", turn_pb2.Finding.ACTION_FLAGGED)
        assert len(turn.receipt.refused_tries) == 1
    async with connected(redacting.address) as client:
        await client.create("s3")
        assert "[pattern]" in (await client.turn(turn_request("s3", "Where?"))).output_text


async def test_grounding_looks_at_the_whole_window_and_acts(plain: Mesh, quick: Settings) -> None:
    rooms = [
        await plain.add_gateway(number, changed(quick, "gateway", validation={"grounding": action, **more}))
        for number, (action, more) in enumerate(
            [("block", {}), ("redact", {}), ("block", {"grounding_window_bytes_max": 0})], start=1
        )
    ]
    async with connected(rooms[0].address) as client:
        await client.create("s1")
        blocked = await client.outcome(turn_request("s1", "Where?"))
        assert isinstance(blocked, IsthmusError)
        assert blocked.metadata == {"check": "grounding", "kind": "ungrounded"}
        # What an earlier turn brought is as good as what comes with this one.
        await client.create("s2")
        assert (await client.turn(turn_request("s2", ALL_WORDS))).output_text
        assert not (await client.turn(turn_request("s2", "Where?"))).receipt.findings
    async with connected(rooms[1].address) as client:
        await client.create("s3")
        events = await client.events(turn_request("s3", "Where?"))
        turn = events[-1].done.turn
        assert turn.output_text == text_of(events) == "[ungrounded]"
        assert turn.receipt.findings[0].action == turn_pb2.Finding.ACTION_REDACTED
    async with connected(rooms[2].address) as client:
        # Where the window is more than may be read, nothing is held against a reply.
        await client.create("s4")
        await client.append("s4", [message_pb2.Message(role=message_pb2.ROLE_USER, text="x" * 300_000)])
        turn = await client.turn(turn_request("s4", "Where?"))
        [finding] = turn.receipt.findings
        assert (finding.kind, finding.action) == ("unread", turn_pb2.Finding.ACTION_FLAGGED)


async def test_a_form_is_told_or_tried_again(plain: Mesh, quick: Settings) -> None:
    params = message_pb2.SamplingParams(structured_output=message_pb2.StructuredOutput(json_schema=json.dumps(SCHEMA)))
    for number, (action, tries) in enumerate([("retry", 3), ("block", 0), ("flag", 0)], start=1):
        room = await plain.add_gateway(number, changed(quick, "gateway", validation={"form": action}))
        async with connected(room.address) as client:
            session = f"s{number}"
            await client.create(session)
            outcome = await client.outcome(turn_request(session, "Which?", params=params))
            if action == "flag":
                assert isinstance(outcome, turn_pb2.Turn)
                assert [(each.check, each.kind) for each in outcome.receipt.findings] == [("form", "schema")]
                continue
            assert isinstance(outcome, IsthmusError)
            assert outcome.reason == errors_pb2.ERROR_REASON_OUTPUT_INVALID
            assert ("3 tries" in outcome.message) == (tries == 3)


async def test_a_reply_that_is_held_is_taken_over_from_its_beginning(quick: Settings) -> None:
    paced = changed(quick, "inference", scripted_tokens_per_s=6.0)
    checked = changed(paced, "gateway", validation={"forbidden": "retry", "forbidden_words": ["never said"]})
    async with running_mesh(checked, gateways=2) as mesh:
        other = mesh.gateway_room(1).address
        async with connected(mesh.grpc_target) as client, connected(other) as follower:
            await client.create("s1")
            request = turn_request("s1", "Where?", on_disconnect=turn_pb2.ON_DISCONNECT_CONTINUE)
            call = client.stub.RunTurn(request)
            name = (await anext(aiter(call))).accepted.turn
            await eventually(mesh.generating, message="a replica generates")
            await mesh.remove("gateway-0")
            events = await follower.attached(name)
            turn = events[-1].done.turn
            assert (turn.state, turn.attempt) == (turn_pb2.Turn.STATE_DONE, 2)
            assert not turn.receipt.continuations
            assert text_of(events) == turn.output_text != ""


async def test_what_is_held_is_bounded(plain: Mesh, quick: Settings) -> None:
    validation = {"forbidden": "retry", "forbidden_words": ["never said"], "held_bytes_max": 20}
    room = await plain.add_gateway(1, changed(quick, "gateway", validation=validation))
    async with connected(room.address) as client:
        await client.create("s1")
        turn = await client.turn(turn_request("s1", "Where?"))
        assert turn.finish_reason == turn_pb2.FINISH_REASON_LENGTH
        assert turn.output_text
        assert turn.receipt.tokens.output_tokens
