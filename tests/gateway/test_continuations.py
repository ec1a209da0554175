"""Replicas that are lost in the middle of a reply: the next one goes on, and the client notices a pause."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, turn_pb2

from inference.engine import EngineOutput, EngineRequest
from inference.engines.scripted import ScriptedEngine
from inference.room import InferenceRoom
from services.config import Settings
from services.errors import IsthmusError, UpstreamUnavailable, from_rpc_error
from tests.gateway.client import Client, Event, connected, drained, kinds, text_of, turn_request
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, changed, running_mesh

OWNER = turn_pb2.Placement.REASON_OWNER
AWAY = turn_pb2.Placement.REASON_AWAY
UNAVAILABLE = errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
TOKENS = 60


@pytest.fixture
def paced(quick: Settings) -> Settings:
    """Replies of 60 tokens in a second and a half."""
    return changed(quick, "inference", scripted_output_tokens=TOKENS, scripted_tokens_per_s=40.0)


@pytest_asyncio.fixture
async def mesh(paced: Settings) -> AsyncIterator[Mesh]:
    """Three replicas and one shard."""
    async with running_mesh(paced, shards=1, replicas=3) as running:
        yield running


async def broken(mesh: Mesh, client: Client, session: str, *, losses: int = 1, text: str = "Go on.") -> list[Event]:
    """A turn's events, whose replica is taken away after its first deltas, `losses` times."""
    events: list[Event] = []
    lost: list[str] = []
    async for event in client.stub.RunTurn(turn_request(session, text)):
        events.append(event)
        if event.HasField("delta") and len(lost) < losses and mesh.generating():
            # Those that were taken away are no longer asked.
            lost += mesh.generating()
            await mesh.remove(lost[-1])
    assert len(set(lost)) == losses
    return events


async def unbroken(client: Client, session: str, text: str = "Go on.") -> turn_pb2.Turn:
    """The same turn in a session of its own."""
    await client.create(session)
    return await client.turn(turn_request(session, text))


async def test_the_client_gets_the_reply_that_an_unbroken_run_gives(mesh: Mesh, client: Client) -> None:
    await client.create("s1")
    events = await broken(mesh, client, "s1")
    turn = events[-1].done.turn
    whole = await unbroken(client, "s2")
    assert text_of(events) == turn.output_text == whole.output_text
    assert (turn.state, turn.attempt, turn.finish_reason) == (turn_pb2.Turn.STATE_DONE, 1, whole.finish_reason)
    assert kinds(events).count("accepted") == 1
    assert await client.texts("s1") == ["Go on.", whole.output_text]


async def test_the_receipt_names_who_went_on_from_where_and_after_what(mesh: Mesh, client: Client) -> None:
    await client.create("s1")
    events = await broken(mesh, client, "s1", losses=2)
    receipt = events[-1].done.turn.receipt
    first, second = receipt.continuations
    assert 0 < first.emitted_tokens < second.emitted_tokens < TOKENS
    assert min(first.pause_ms, second.pause_ms) > 0
    assert [first.reason, second.reason] == [UNAVAILABLE] * 2
    assert first.replica != second.replica == receipt.replica
    assert receipt.tokens.output_tokens == TOKENS
    assert receipt.ttft_ms < receipt.total_ms / 2, "the first text is that of the first replica"
    assert sum(hop.name == "gateway.inference" for hop in receipt.hops) == 3
    told = [(event.hop.name, event.hop.operation) for event in events if event.HasField("hop")]
    assert told[: len(receipt.hops)] == [(hop.name, hop.operation) for hop in receipt.hops]
    assert kinds(events).index("delta") < max(
        at for at, event in enumerate(events) if event.hop.name == "gateway.inference"
    )


async def test_the_turn_after_it_reuses_what_the_next_one_took_over(mesh: Mesh, client: Client) -> None:
    await client.create("s1")
    turn = (await broken(mesh, client, "s1"))[-1].done.turn
    receipt = (await client.turn(turn_request("s1", "And now?"))).receipt
    assert receipt.replica == turn.receipt.replica
    assert receipt.tokens.new_tokens < TOKENS < receipt.tokens.reused_tokens, "the reply was not tokenised again"


async def test_the_only_replica_may_come_back(paced: Settings) -> None:
    async with running_mesh(paced, shards=1) as mesh, connected(mesh.grpc_target) as client:
        whole = await unbroken(client, "s2")
        await client.create("s1")
        call = client.stub.RunTurn(turn_request("s1", "Go on."))
        events = [event async for event in _until_delta(call)]
        await mesh.remove("inference-0")
        await mesh.add_replica(1)
        events += await drained(call)
        assert text_of(events) == whole.output_text
        [continuation] = events[-1].done.turn.receipt.continuations
        assert continuation.replica == "inference-1"


async def test_replicas_are_lost_so_often_and_no_more(paced: Settings) -> None:
    bounded = changed(paced, "gateway", continuations_count_max=1)
    async with running_mesh(bounded, shards=1, replicas=3) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await broken(mesh, client, "s1", losses=2)
        error = from_rpc_error(caught.value)
        assert error.reason == UNAVAILABLE
        assert error.retry_after_ms
        failed = await client.get_turn("sessions/s1/turns/1")
        assert failed.state == turn_pb2.Turn.STATE_FAILED


async def test_a_turn_may_be_stopped_while_nobody_goes_on_with_it(paced: Settings) -> None:
    async with running_mesh(paced, shards=1) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        call = client.stub.RunTurn(turn_request("s1", "Go on.", "r1"))
        async for _ in _until_delta(call):
            continue
        await mesh.remove("inference-0")
        call.cancel()

        async def failed() -> bool:
            return (await client.get_turn("sessions/s1/turns/1")).state == turn_pb2.Turn.STATE_FAILED

        await eventually(failed, message="the turn is closed")


class Engines:
    """What the replicas' engines are asked for; `fails` is what the first of them then does in mid-reply."""

    def __init__(self, mesh: Mesh, fails: IsthmusError, *samples: str) -> None:
        self.asked: list[EngineRequest] = []
        self._fails: IsthmusError | None = fails
        for room in mesh.rooms.values():
            if isinstance(room, InferenceRoom):
                assert isinstance(room.engine, ScriptedEngine)
                room.engine.samples = frozenset(samples)
                self._watch(room.engine)

    def _watch(self, engine: ScriptedEngine) -> None:
        generate = engine.generate

        async def watched(request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
            self.asked.append(request)
            async for output in generate(request):
                logprobs = tuple(message_pb2.TokenLogprob(logprob=-each / 4) for each in output.token_ids)
                yield replace(output, logprobs=logprobs if request.sampling.logprobs is not None else ())
                fails, self._fails = self._fails, None
                if fails is not None:
                    raise fails

        engine.generate = watched  # type: ignore[method-assign]


async def test_logprobs_and_priority_pass_through_a_continuation(mesh: Mesh, client: Client) -> None:
    engines = Engines(mesh, UpstreamUnavailable("gone"), "logprobs")
    await client.create("s1")
    # Words that may be the beginning of a stop string are held back, and what is known of them comes all the same.
    params = message_pb2.SamplingParams(logprobs=0, stop=[" the!", " way!", " it!"])
    events = await client.events(turn_request("s1", "Go on.", params=params, priority=5))
    logprobs = [each.logprob for event in events for each in event.delta.logprobs]
    first, second = engines.asked
    assert len(logprobs) == TOKENS
    assert [-4 * each for each in logprobs[: len(second.emitted)]] == second.emitted.tolist()
    assert (first.priority, second.priority, first.session, second.session) == (5, 5, "local/s1", "local/s1")
    assert (first.sampling.logprobs, second.sampling.logprobs) == (0, 0)


async def test_a_window_that_the_next_replica_lacks_is_missed(mesh: Mesh, client: Client) -> None:
    await client.create("s1")
    first = (await client.turn(turn_request("s1", "A long story. " * 100))).receipt
    assert (first.placement.reason, first.placement.owner) == (OWNER, first.replica)
    assert first.placement.missed_tokens == 0
    Engines(mesh, UpstreamUnavailable("gone"))
    receipt = (await client.turn(turn_request("s1", "Go on."))).receipt
    assert receipt.replica != first.replica
    assert (receipt.placement.reason, receipt.placement.owner) == (AWAY, first.replica)
    assert first.tokens.window_tokens / 2 < receipt.placement.missed_tokens < receipt.tokens.window_tokens
    assert receipt.placement.missed_ms > 0


async def test_what_the_engine_itself_fails_on_is_not_tried_elsewhere(mesh: Mesh, client: Client) -> None:
    engines = Engines(mesh, IsthmusError(errors_pb2.ERROR_REASON_ENGINE_FAILED, "a bad request"))
    await client.create("s1")
    outcome = await client.outcome(turn_request("s1", "Go on."))
    assert isinstance(outcome, IsthmusError)
    assert outcome.reason == errors_pb2.ERROR_REASON_ENGINE_FAILED
    assert len(engines.asked) == 1


_FORM = message_pb2.StructuredOutput(choices=message_pb2.StructuredOutput.Choices(texts=["word " * 200]))
_CALL = message_pb2.ToolUse(
    functions=[message_pb2.ToolUse.Function(name="f")], choice=message_pb2.ToolUse.CHOICE_REQUIRED
)


@pytest.mark.parametrize("form", [{"structured_output": _FORM}, {"tools": _CALL}], ids=["form", "call"])
async def test_a_reply_of_a_set_form_is_not_gone_on_with(mesh: Mesh, client: Client, form: dict[str, Any]) -> None:
    engines = Engines(mesh, UpstreamUnavailable("gone"), *form)
    await client.create("s1")
    params = message_pb2.SamplingParams(**form)
    outcome = await client.outcome(turn_request("s1", "Go on.", params=params))
    assert isinstance(outcome, IsthmusError)
    assert outcome.reason == UNAVAILABLE
    assert len(engines.asked) == 1


async def _until_delta(call: AsyncIterable[Event]) -> AsyncIterator[Event]:
    """A turn's events up to its first text."""
    async for event in call:
        yield event
        if event.HasField("delta"):
            return


async def test_many_turns_outlive_one_replica(paced: Settings) -> None:
    """Each session's text is the one that it would have been, whoever was lost and wherever it was served."""
    async with running_mesh(paced, shards=1, replicas=3) as mesh, connected(mesh.grpc_target) as client:
        whole = await unbroken(client, "whole")
        sessions = [f"s{number}" for number in range(12)]
        for session in sessions:
            await client.create(session)
        turns = asyncio.gather(*(client.turn(turn_request(session, "Go on.")) for session in sessions))
        await eventually(lambda: len(mesh.generating()) == 3, message="all replicas generate")
        await mesh.remove(mesh.generating()[0])
        assert {turn.output_text for turn in await turns} == {whole.output_text}
