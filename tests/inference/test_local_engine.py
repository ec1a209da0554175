"""The default engine: a real model, batched, cancelled, and repeatable by its seed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, turn_pb2

from inference.engine import EngineContext, EngineOutput, EngineRequest, Sampling, create_engine
from inference.engines.local import LocalEngine
from inference.model_files import ModelFiles
from inference.template import START, ChatTemplate
from inference.tokenizer import Tokenizer
from inference.windows import Window
from services.config import InferenceSettings
from services.errors import InvalidField, IsthmusError
from services.tool_calls import TAIL, head
from tests.inference.items import item
from tests.support.eventually import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(model_files: ModelFiles, tokenizer: Tokenizer, cache_dir: Path) -> AsyncIterator[LocalEngine]:
    settings = InferenceSettings(cache_dir=cache_dir, requests_running_max=4)
    running = create_engine(EngineContext(settings, model_files, tokenizer))
    assert isinstance(running, LocalEngine)
    await running.start()
    yield running
    await running.stop()


def request(template: ChatTemplate, text: str, tokens: int, **sampling: float) -> EngineRequest:
    (encoded,) = template.encode([item(text)], START)
    settings = Sampling(output_tokens_max=tokens, **{"temperature": 0.0, **sampling})  # type: ignore[arg-type]
    return EngineRequest(encoded.ids, template.reply_header, (Window().end,), "t", settings)


async def rest_of(outputs: AsyncIterator[EngineOutput]) -> list[EngineOutput]:
    return [output async for output in outputs]


async def outputs_of(engine: LocalEngine, asked: EngineRequest) -> list[EngineOutput]:
    return await rest_of(engine.generate(asked))


async def text_of(engine: LocalEngine, tokenizer: Tokenizer, asked: EngineRequest) -> str:
    return tokenizer.decode(token for output in await outputs_of(engine, asked) for token in output.token_ids)


async def test_it_knows_the_capital_of_france(
    engine: LocalEngine, template: ChatTemplate, tokenizer: Tokenizer
) -> None:
    outputs = await outputs_of(engine, request(template, "What is the capital of France?", 30))
    ids = [token for output in outputs for token in output.token_ids]
    assert "Paris" in tokenizer.decode(ids)
    assert outputs[-1].finish_reason == turn_pb2.FINISH_REASON_STOP
    assert not tokenizer.special_ids & set(ids)
    assert engine.running == 0


async def test_a_batch_gives_each_its_own_answer(
    engine: LocalEngine, template: ChatTemplate, tokenizer: Tokenizer
) -> None:
    capitals = {"France": "Paris", "Italy": "Rome", "Japan": "Tokyo"}
    asked = [request(template, f"What is the capital of {country}?", 12) for country in capitals]
    answers = await asyncio.gather(*(text_of(engine, tokenizer, each) for each in asked))
    assert [city in answer for city, answer in zip(capitals.values(), answers, strict=True)] == [True] * 3


async def test_a_reply_ends_at_its_length(engine: LocalEngine, template: ChatTemplate) -> None:
    outputs = await outputs_of(engine, request(template, "Tell me a story.", 12, temperature=1.5, seed=5))
    assert outputs[-1].finish_reason == turn_pb2.FINISH_REASON_LENGTH
    assert sum(len(output.token_ids) for output in outputs) == 12


async def test_a_reply_that_may_not_end_has_all_of_its_tokens(engine: LocalEngine, template: ChatTemplate) -> None:
    asked = request(template, "What is the capital of France?", 60)
    outputs = await outputs_of(engine, replace(asked, sampling=replace(asked.sampling, output_tokens_min=60)))
    assert outputs[-1].finish_reason == turn_pb2.FINISH_REASON_LENGTH
    assert sum(len(output.token_ids) for output in outputs) == 60


async def test_it_goes_on_behind_what_another_has_emitted(engine: LocalEngine, template: ChatTemplate) -> None:
    # A text that leaves the model no doubt: what it has read and what it has said itself differ in the last digits.
    asked = request(template, "Repeat after me: one two three four five six seven eight nine ten", 40)
    ids = [token for output in await outputs_of(engine, asked) for token in output.token_ids]
    assert len(ids) == 40
    for emitted in (1, 15, 39):
        sampling = replace(asked.sampling, output_tokens_max=40 - emitted)
        beginning = np.asarray(ids[:emitted], dtype=np.int32)
        outputs = await outputs_of(engine, replace(asked, sampling=sampling, emitted=beginning))
        assert [token for output in outputs for token in output.token_ids] == ids[emitted:]
        assert outputs[-1].finish_reason == turn_pb2.FINISH_REASON_LENGTH


async def test_closing_a_reply_frees_its_place(
    engine: LocalEngine, template: ChatTemplate, tokenizer: Tokenizer
) -> None:
    async with aclosing(engine.generate(request(template, "Count to a thousand.", 4_000))) as outputs:
        await anext(outputs)
        assert engine.running == 1
    await eventually(lambda: engine.running == 0)
    assert "Paris" in await text_of(engine, tokenizer, request(template, "What is the capital of France?", 30))


async def test_a_worker_that_dies_fails_its_requests_and_is_replaced(
    engine: LocalEngine, template: ChatTemplate, tokenizer: Tokenizer
) -> None:
    async with aclosing(engine.generate(request(template, "Count to a thousand.", 4_000))) as outputs:
        await anext(outputs)
        assert engine.worker is not None
        os.kill(engine.worker.pid, signal.SIGKILL)
        with pytest.raises(IsthmusError) as caught:
            await rest_of(outputs)
    assert caught.value.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    assert engine.running == 0
    assert "Paris" in await text_of(engine, tokenizer, request(template, "What is the capital of France?", 30))


async def test_a_long_prompt_does_not_hold_up_the_event_loop(engine: LocalEngine, template: ChatTemplate) -> None:
    """A step of the pipeline holds its process's interpreter, so it must not be this one."""
    asked = request(template, " ".join(map(str, range(400))), 1)
    generating = asyncio.create_task(outputs_of(engine, asked))
    loop = asyncio.get_running_loop()
    started = last = loop.time()
    longest = 0.0
    while not generating.done():
        await asyncio.sleep(0.001)
        last, before = loop.time(), last
        longest = max(longest, last - before)
    assert longest < (last - started) / 3


async def test_it_keeps_to_a_schema_and_calls_what_it_must(
    engine: LocalEngine, template: ChatTemplate, tokenizer: Tokenizer
) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "note": {"type": "string", "pattern": "^(a+)+$"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    asked = request(template, "What is the capital of France?", 60)
    form = message_pb2.StructuredOutput(json_schema=json.dumps(schema))
    said = await text_of(engine, tokenizer, replace(asked, sampling=replace(asked.sampling, structured_output=form)))
    assert json.loads(said)["city"] == "Paris"
    function = message_pb2.ToolUse.Function(name="look_up", parameters=json.dumps(schema), strict=True)
    tools = message_pb2.ToolUse(functions=[function], choice=message_pb2.ToolUse.CHOICE_REQUIRED, single=True)
    said = await text_of(engine, tokenizer, replace(asked, sampling=replace(asked.sampling, tools=tools)))
    assert said.startswith(head("look_up"))
    assert said.endswith(TAIL)
    assert json.loads(said.removeprefix(head("look_up")).removesuffix(TAIL))["city"] == "Paris"


async def test_a_form_that_it_cannot_keep_to_fails_its_own_request_and_no_other_worker(
    engine: LocalEngine, template: ChatTemplate
) -> None:
    asked = request(template, "Hello", 5)

    def formed(form: message_pb2.StructuredOutput) -> EngineRequest:
        return replace(asked, sampling=replace(asked.sampling, structured_output=form))

    for schema in ('{"type": "nothing"}', '{"$ref": "#/$defs/a"}', "[]", "{"):
        with pytest.raises(InvalidField):
            await outputs_of(engine, formed(message_pb2.StructuredOutput(json_schema=schema)))
    with pytest.raises(IsthmusError) as caught:
        await outputs_of(engine, formed(message_pb2.StructuredOutput(regex="(unclosed")))
    assert caught.value.reason == errors_pb2.ERROR_REASON_ENGINE_FAILED
    assert engine.worker is not None
    assert engine.running == 0
    worker = engine.worker
    await eventually(lambda: not worker.alive)
    assert await outputs_of(engine, asked)
