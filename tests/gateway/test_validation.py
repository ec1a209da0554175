"""Checks of replies through a whole mesh: what is redacted is so in the log, too; what is blocked is nowhere."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from services.config import ConfigError, Settings
from services.errors import IsthmusError
from tests.gateway.client import Client, connected, text_of, turn_request
from tests.support.mesh import Mesh, changed, running_mesh


@pytest_asyncio.fixture
async def plain(quick: Settings) -> AsyncIterator[Mesh]:
    """A gateway that checks nothing, to which others are added."""
    async with running_mesh(quick, shards=1, replicas=1) as mesh:
        yield mesh


async def first_word(client: Client) -> str:
    """A word of what the scripted engine says to `Where?`."""
    await client.create("s0")
    words = (await client.turn(turn_request("s0", "Where?"))).output_text.split()
    return next(word for word in words if word.isalpha() and len(word) > 3)


async def test_what_is_redacted_is_read_by_nobody_and_told(plain: Mesh, quick: Settings) -> None:
    async with connected(plain.grpc_target) as client:
        word = await first_word(client)
    validation = {"forbidden": "redact", "forbidden_words": [word], "grounding": "flag", "grounding_score_min": 1.0}
    room = await plain.add_gateway(1, changed(quick, "gateway", validation=validation))
    async with connected(room.address) as client:
        await client.create("s1")
        events = await client.events(turn_request("s1", "Where?"))
        turn = events[-1].done.turn
        assert "[word]" in turn.output_text
        assert word not in turn.output_text.split()
        assert text_of(events) == turn.output_text == (await client.texts("s1"))[1]
        found = {finding.check: finding for finding in turn.receipt.findings}
        assert found["forbidden"].action == turn_pb2.Finding.ACTION_REDACTED
        assert found["forbidden"].count == turn.output_text.count("[word]")
        assert found["grounding"].score < 1


async def test_what_is_blocked_fails_the_turn(plain: Mesh, quick: Settings) -> None:
    async with connected(plain.grpc_target) as client:
        word = await first_word(client)
    validation = {"forbidden": "block", "forbidden_words": [word]}
    room = await plain.add_gateway(1, changed(quick, "gateway", validation=validation))
    async with connected(room.address) as client:
        await client.create("s1")
        blocked = await client.outcome(turn_request("s1", "Where?"))
        assert isinstance(blocked, IsthmusError)
        assert blocked.reason == errors_pb2.ERROR_REASON_CONTENT_BLOCKED
        assert blocked.metadata == {"check": "forbidden", "kind": "word"}
        turn = await client.get_turn("sessions/s1/turns/1")
        assert (turn.state, turn.error.reason) == (turn_pb2.Turn.STATE_FAILED, errors_pb2.ERROR_REASON_CONTENT_BLOCKED)
        assert word not in " ".join(await client.texts("s1"))


async def test_a_pattern_without_a_bound_is_refused_at_the_start(plain: Mesh, quick: Settings) -> None:
    with pytest.raises(ConfigError, match="forbidden_patterns"):
        await plain.add_gateway(
            1, changed(quick, "gateway", validation={"forbidden": "flag", "forbidden_patterns": ["a+"]})
        )
