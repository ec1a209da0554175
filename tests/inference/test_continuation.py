"""A replica goes on with a reply that another one has begun, as if it had made all of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from isthmus.context.v1 import window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2 as contract
from isthmus.session.v1 import message_pb2, turn_pb2

from inference.engine import EngineContext, EngineOutput, EngineRequest
from inference.engines.scripted import ScriptedEngine
from inference.tokenizer import Tokenizer
from services.config import Settings
from tests.inference.items import item, manifest, reply
from tests.inference.replica import Params, Replica, Reply, error_of, running_replica, take

WINDOW = manifest([item("Which way is it?")])


@pytest.fixture
async def replica(settings: Settings, cache_dir: Path) -> AsyncIterator[Replica]:
    async with running_replica(settings, cache_dir) as running:
        yield running


async def continued(
    replica: Replica, emitted: contract.Emitted, window: window_pb2.Manifest = WINDOW, **params: Any
) -> Reply:
    """The rest of a reply, from the replica that takes it over."""
    request = contract.GenerateRequest(tenant="t", session="s", manifest=window, emitted=emitted)
    request.params.MergeFrom(Params(**params))
    answer = Reply()
    async for response in replica.stub.Generate(request):
        take(answer, response)
    return answer


async def beginning(replica: Replica, tokenizer: Tokenizer, whole: Reply, tokens: int) -> contract.Emitted:
    """The first tokens of a reply as they are handed on."""
    model = await replica.stub.GetModel(contract.GetModelRequest())
    ids = whole.ids[:tokens]
    return contract.Emitted(token_ids=ids, tokenizer=model.tokenizer, text=tokenizer.decode(ids))


async def test_what_was_sent_and_what_follows_is_the_unbroken_reply(replica: Replica, tokenizer: Tokenizer) -> None:
    whole = await replica.generate(WINDOW)
    for tokens in (1, 17, 63, 64):
        emitted = await beginning(replica, tokenizer, whole, tokens)
        rest = await continued(replica, emitted)
        assert emitted.text + rest.text == whole.text
        assert rest.ids == whole.ids[tokens:]
        assert rest.finished.output_tokens == 64, "the whole reply counts"
        assert rest.finished.finish_reason == turn_pb2.FINISH_REASON_STOP
        assert rest.started.window_tokens == whole.started.window_tokens


async def test_the_length_of_the_whole_reply_is_bounded(replica: Replica, tokenizer: Tokenizer) -> None:
    whole = await replica.generate(WINDOW, max_output_tokens=20)
    assert whole.finished.finish_reason == turn_pb2.FINISH_REASON_LENGTH
    for tokens in (12, 20):
        rest = await continued(replica, await beginning(replica, tokenizer, whole, tokens), max_output_tokens=20)
        assert rest.ids == whole.ids[tokens:]
        assert rest.finished.finish_reason == turn_pb2.FINISH_REASON_LENGTH
        assert rest.finished.output_tokens == 20


async def test_a_stop_string_is_found_across_the_break_and_before_it(replica: Replica, tokenizer: Tokenizer) -> None:
    words = (await replica.generate(WINDOW)).text.split(" ")
    stop = [f" {words[8]} {words[9]}"]
    whole = await replica.generate(WINDOW, stop=stop)
    unstopped = await replica.generate(WINDOW)
    text = " ".join(words[:8])
    assert whole.text == text
    for tokens in (3, len(whole.ids) - 1):
        emitted = await beginning(replica, tokenizer, unstopped, tokens)
        emitted.text = emitted.text[: len(text)]
        rest = await continued(replica, emitted, stop=stop)
        assert emitted.text + rest.text == text
        assert rest.finished.finish_reason == turn_pb2.FINISH_REASON_STOP
    emitted = await beginning(replica, tokenizer, unstopped, 40)
    emitted.text = text
    ended = await continued(replica, emitted, stop=stop)
    assert (ended.text, ended.ids) == ("", [])
    assert ended.finished.finish_reason == turn_pb2.FINISH_REASON_STOP


async def test_ids_of_another_tokenizer_are_not_read(replica: Replica, tokenizer: Tokenizer) -> None:
    whole = await replica.generate(WINDOW)
    emitted = await beginning(replica, tokenizer, whole, 30)
    rest = await continued(replica, contract.Emitted(token_ids=[1] * 7, tokenizer=b"x" * 16, text=emitted.text))
    # The script's words are whole tokens, so that the text has the same ids again.
    assert emitted.text + rest.text == whole.text
    assert rest.finished.output_tokens == 64


async def test_the_whole_replys_ids_are_kept_for_the_next_turn(replica: Replica, tokenizer: Tokenizer) -> None:
    items = [item("Which way is it?", sequence=1)]
    whole = await replica.generate(manifest(items), session="other")
    await continued(replica, await beginning(replica, tokenizer, whole, 30), manifest(items))
    items += [reply(whole.text, sequence=2), item("Go on.", sequence=3)]
    unbroken = await replica.generate(manifest(items, prefix=1), session="other")
    broken = await replica.generate(manifest(items, prefix=1))
    assert broken.started.new_tokens == unbroken.started.new_tokens < len(whole.ids)


async def test_a_form_is_not_kept_to_from_the_middle_on(replica: Replica, tokenizer: Tokenizer) -> None:
    replica.engine.samples = frozenset({"structured_output"})
    emitted = await beginning(replica, tokenizer, await replica.generate(WINDOW), 5)
    form = message_pb2.StructuredOutput(regex="a+")
    error = await error_of(continued(replica, emitted, structured_output=form))
    assert error.reason == errors_pb2.ERROR_REASON_INVALID_FIELD
    assert error.fields[0].field == "emitted"


class Listening:
    """Hears what reaches an engine, and has it say a log probability for each token."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._generate = engine.generate
        self.requests: list[EngineRequest] = []
        self.forgotten: list[str] = []
        engine.samples = frozenset({"logprobs"})
        engine.adapters = ("pirate",)
        engine.generate = self.generate  # type: ignore[method-assign]
        engine.forget = self.forget  # type: ignore[method-assign]

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        self.requests.append(request)
        async for output in self._generate(request):
            logprobs = tuple(message_pb2.TokenLogprob(logprob=-each / 4) for each in output.token_ids)
            yield replace(output, logprobs=logprobs, resident=True)

    async def forget(self, session: str) -> int:
        self.forgotten.append(session)
        return 40


async def test_an_engine_hears_whose_request_it_is_and_is_heard_in_full(replica: Replica) -> None:
    assert isinstance(replica.engine, ScriptedEngine)
    listening = Listening(replica.engine)
    request = contract.GenerateRequest(tenant="t", session="s", manifest=WINDOW, priority=-7, params=Params(logprobs=0))
    logprobs: list[float] = []
    ids: list[int] = []
    resident = False
    async for response in replica.stub.Generate(request):
        logprobs += [each.logprob for each in response.delta.logprobs]
        ids += response.delta.token_ids
        resident = response.finished.resident
    assert logprobs == [-each / 4 for each in ids]
    assert resident
    [heard] = listening.requests
    assert (heard.session, heard.priority, heard.adapter, heard.sampling.logprobs) == ("t/s", -7, "", 0)


async def test_what_the_engine_keeps_of_a_session_is_forgotten_with_it(replica: Replica) -> None:
    assert isinstance(replica.engine, ScriptedEngine)
    await replica.generate(WINDOW)
    listening = Listening(replica.engine)
    answer = await replica.stub.ForgetSession(contract.ForgetSessionRequest(tenant="t", session="s"))
    assert listening.forgotten == ["t/s"]
    assert [(each.place, each.kind, each.count) for each in answer.erasures] == [
        ("replica-1", "window", 1),
        ("replica-1", "resident", 40),
    ]


async def test_an_adapter_is_asked_for_as_a_model(
    settings: Settings, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedEngine, "__init__", _with_an_adapter(ScriptedEngine.__init__))
    async with running_replica(settings, cache_dir) as replica:
        assert isinstance(replica.engine, ScriptedEngine)
        listening = Listening(replica.engine)
        model = await replica.stub.GetModel(contract.GetModelRequest())
        assert list(model.adapters) == ["pirate"]
        started = contract.GenerateResponse.Started()
        for name in ("pirate", model.name, ""):
            request = contract.GenerateRequest(tenant="t", session="s", manifest=WINDOW, model=name)
            async for response in replica.stub.Generate(request):
                started = response.started if response.HasField("started") else started
            assert started.model == (name or "scripted")
        assert [each.adapter for each in listening.requests] == ["pirate", "", ""]
        unknown = contract.GenerateRequest(tenant="t", session="s", manifest=WINDOW, model="poet")
        error = await error_of(replica.stub.Generate(unknown).read())
    assert error.reason == errors_pb2.ERROR_REASON_MODEL_NOT_FOUND
    assert "'scripted', 'pirate' or none" in error.message


def _with_an_adapter(make: Callable[[ScriptedEngine, EngineContext], None]) -> Callable[..., None]:
    def make_with_one(engine: ScriptedEngine, context: EngineContext) -> None:
        make(engine, context)
        engine.adapters = ("pirate",)

    return make_with_one
