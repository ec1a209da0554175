"""The engine that stands before a server of OpenAI's shape, on real HTTP: what it sends, what it takes as an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, turn_pb2

from inference.engine import EngineContext, EngineOutput, EngineRequest, Sampling, create_engine
from inference.engines.openai import OpenAIEngine
from inference.model_files import ModelFiles, ModelFilesError
from inference.tokenizer import Tokenizer
from inference.windows import Window
from services.config import InferenceSettings, OpenAISettings
from services.errors import IsthmusError
from tests.support.eventually import WAIT_S_MAX
from tests.support.openai_server import DONE, choice, openai_server
from tests.support.openai_server import OpenAIServer as Server
from tests.support.ports import free_port


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with openai_server() as running:
        yield running


@pytest.fixture
def start(server: Server, model_files: ModelFiles, tokenizer: Tokenizer) -> Any:
    @asynccontextmanager
    async def started(**openai: Any) -> AsyncIterator[OpenAIEngine]:
        settings = InferenceSettings(engine=f"openai:http://127.0.0.1:{server.port}")
        context = EngineContext(settings, model_files, tokenizer, openai=OpenAISettings(**openai))
        engine = create_engine(context)
        assert isinstance(engine, OpenAIEngine)
        try:
            await engine.start()
            yield engine
        finally:
            await engine.stop()

    return started


def request(**fields: Any) -> EngineRequest:
    sampling = fields.pop("sampling", Sampling(output_tokens_max=8, temperature=0.0))
    window, header = np.asarray([5, 6, 7], dtype=np.int32), np.asarray([2, 198], dtype=np.int32)
    return EngineRequest(window, header, (Window().end,), "acme", sampling, **fields)


async def outputs(engine: OpenAIEngine, asked: EngineRequest) -> list[EngineOutput]:
    return [each async for each in engine.generate(asked)]


async def refusal(engine: OpenAIEngine) -> IsthmusError:
    with pytest.raises(IsthmusError) as caught:
        await outputs(engine, request())
    assert engine.running == 0
    return caught.value


async def test_ids_go_there_and_ids_come_back(server: Server, start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    usage = {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}}
    server.events = [
        choice(token_ids=[30, 31]),
        choice(token_ids=[32, 2], finish_reason="stop"),
        {"choices": [], "usage": usage},
        DONE,
    ]
    async with start() as engine:
        assert (engine.model, engine.context_tokens_max, engine.adapters) == ("big", 4_096, ("tuned",))
        said = await outputs(engine, request(priority=-3))
    assert [each.token_ids for each in said] == [(30, 31), (32,), ()]
    assert (said[-1].finish_reason, said[-1].cached_tokens) == (turn_pb2.FINISH_REASON_STOP, 3)
    (body,) = server.bodies
    assert body["prompt"] == [5, 6, 7, 2, 198]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("big", 8, 0.0)
    assert (body["cache_salt"], body["priority"], body["return_token_ids"]) == ("acme", -3, True)
    assert set(server.keys) == {"Bearer secret"}


async def test_a_server_that_tells_text_alone_is_understood(server: Server, start: Any, tokenizer: Tokenizer) -> None:
    server.events = [choice(text="Paris, "), choice(text="of course", finish_reason="length"), DONE]
    async with start(vllm_fields=False, model="other") as engine:
        said = await outputs(engine, request(emitted=np.asarray([9], dtype=np.int32)))
    assert tokenizer.decode(token for each in said for token in each.token_ids) == "Paris, of course"
    assert said[-1].finish_reason == turn_pb2.FINISH_REASON_LENGTH
    assert not {"cache_salt", "priority", "return_token_ids", "stop_token_ids"} & set(server.bodies[0])
    assert (server.bodies[0]["model"], server.bodies[0]["prompt"]) == ("other", [5, 6, 7, 2, 198, 9])


async def test_all_ways_to_sample_are_passed_on(server: Server, start: Any) -> None:
    top = {"a": -0.1, "b": -2.0}
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.1], "top_logprobs": [top]}
    server.events = [choice(token_ids=[30], logprobs=logprobs, finish_reason="stop"), DONE]
    form = message_pb2.StructuredOutput(regex="[ab]")
    sampling = Sampling(4, top_p=0.5, seed=7, top_k=3, min_p=0.1, logprobs=2, structured_output=form)
    async with start() as engine:
        said = await outputs(engine, request(sampling=sampling, adapter="tuned"))
    body = server.bodies[0]
    assert (body["top_p"], body["seed"], body["top_k"], body["min_p"], body["logprobs"]) == (0.5, 7, 3, 0.1, 2)
    assert (body["structured_outputs"], body["model"]) == ({"regex": "[ab]"}, "tuned")
    (logprob,) = said[0].logprobs
    assert logprob.token == b"a"
    assert [each.token for each in logprob.likeliest] == [b"a", b"b"]


async def test_what_the_server_refuses_is_told_by_its_kind(server: Server, start: Any) -> None:
    async with start() as engine:
        server.status = 400
        assert (await refusal(engine)).reason == errors_pb2.ERROR_REASON_ENGINE_FAILED
        server.status = 503
        assert (await refusal(engine)).reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
        server.status, server.headers = 429, {"retry-after": "7"}
        busy = await refusal(engine)
    assert (busy.reason, busy.retry_after_ms) == (errors_pb2.ERROR_REASON_OVERLOADED, 7_000)
    assert "not so" in str(busy)


@pytest.mark.parametrize("cuts", [True, False], ids=["cut", "ended"])
async def test_a_stream_that_breaks_is_no_reply(server: Server, start: Any, cuts: bool) -> None:
    server.events, server.cuts = [choice(token_ids=[30])], cuts
    async with start() as engine:
        assert (await refusal(engine)).reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE


async def test_an_error_amid_the_stream_fails_the_request(server: Server, start: Any) -> None:
    server.events = [choice(token_ids=[30]), {"error": {"message": "out of memory"}}]
    async with start() as engine:
        assert (await refusal(engine)).reason == errors_pb2.ERROR_REASON_ENGINE_FAILED


@pytest.mark.parametrize("event", ["rubbish", "[1]"])
async def test_what_is_no_event_amid_the_stream_is_the_servers_failure(server: Server, start: Any, event: Any) -> None:
    server.events = [choice(token_ids=[30]), event]
    async with start() as engine:
        broken = await refusal(engine)
    assert (broken.reason, broken.metadata["provider"]) == (errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE, "error")


async def test_a_silent_server_is_given_up_and_a_caller_who_goes_frees_it(server: Server, start: Any) -> None:
    server.events, server.hangs = [choice(token_ids=[30])], True
    async with start(silence_ms_max=200) as engine:
        assert (await refusal(engine)).reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    server.left.clear()
    async with start() as engine:
        stream = engine.generate(request())
        await anext(stream)
        await stream.aclose()
        assert engine.running == 0
        async with asyncio.timeout(WAIT_S_MAX):
            await server.left.wait()


async def test_a_server_that_is_not_there_or_has_another_model_is_said_at_start(server: Server, start: Any) -> None:
    with pytest.raises(ModelFilesError, match="expected one of big, tuned, other"):
        async with start(model="small"):
            pass
    server.port = free_port()
    with pytest.raises(ModelFilesError, match="expected a server of OpenAI's shape"):
        async with start():
            pass
