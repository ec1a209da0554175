"""The engine `vllm` on a real model: replies, forms, adapters, priorities, errors, and its process' death."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, turn_pb2
from prometheus_client import REGISTRY

from inference.engines.vllm import VllmEngine
from services.config import ConfigError, VllmSettings
from services.errors import InvalidField, IsthmusError
from services.tool_calls import TAIL, call, head
from tests.support.eventually import eventually
from tests.vllm.asking import Asker, asker, context, write_adapter

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTEXT_TOKENS = 2_048
BLOCK_TOKENS = 32
# A little more than two contexts.
BLOCKS = 2 * CONTEXT_TOKENS // BLOCK_TOKENS + 2
FRANCE = "What is the capital of France?"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asker]:
    folder = tmp_path_factory.mktemp("adapters")
    vllm = VllmSettings(
        engine_args={"dtype": "float32", "num_gpu_blocks_override": BLOCKS},
        adapters={"same": write_adapter(folder / "same", 0.0), "other": write_adapter(folder / "other", 0.2)},
        residents_count_max=2,
        residents_kv_share_max=0.9,
        resident_tokens_min=64,
    )
    async with asker(vllm, requests_running_max=2, context_tokens_max=CONTEXT_TOKENS, batch_tokens_max=256) as started:
        yield started


async def test_it_knows_the_capital_of_france(asked: Asker) -> None:
    reply = await asked.ask(asked.said(FRANCE), 30)
    assert "Paris" in reply.text
    assert reply.finish_reason == turn_pb2.FINISH_REASON_STOP
    assert not asked.tokenizer.special_ids & set(reply.ids)
    assert (reply.cached_tokens, reply.resident) == (0, False)
    assert asked.engine.context_tokens_max == CONTEXT_TOKENS
    assert asked.engine.running == 0


async def test_a_reply_ends_at_its_length(asked: Asker) -> None:
    reply = await asked.ask(asked.said("Tell me a story."), 12, temperature=1.2, top_p=0.9, top_k=40, min_p=0.01)
    assert reply.finish_reason == turn_pb2.FINISH_REASON_LENGTH
    assert len(reply.ids) == 12


async def test_a_prompt_again_is_in_the_cache_of_its_tenant_alone(asked: Asker) -> None:
    prompt = asked.story(400)
    whole_blocks = (len(prompt) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    first, again, other = [await asked.ask(prompt, 4, salt=salt) for salt in ("a", "a", "b")]
    assert [each.cached_tokens for each in (first, again, other)] == [0, whole_blocks, 0]
    assert first.ids == again.ids == other.ids


async def test_a_seed_repeats_a_reply_and_penalties_change_it(asked: Asker) -> None:
    prompt = asked.said("Count from one to ten.")
    one, two, three = [await asked.ask(prompt, 24, temperature=1.5, seed=seed) for seed in (-7, -7, 8)]
    assert one.ids == two.ids
    assert one.ids != three.ids
    plain, penal = await asked.ask(prompt, 24), await asked.ask(prompt, 24, repetition_penalty=2.0, presence_penalty=2)
    assert plain.ids != penal.ids


async def test_log_probabilities_stand_beside_each_token(asked: Asker) -> None:
    reply = await asked.ask(asked.said(FRANCE), 30, logprobs=3)
    assert reply.finish_reason == turn_pb2.FINISH_REASON_STOP
    assert [each.token for each in reply.logprobs] == [asked.tokenizer.token_bytes(token) for token in reply.ids]
    for each in reply.logprobs:
        values = [likely.logprob for likely in each.likeliest]
        assert (len(values), values) == (3, sorted(values, reverse=True))
        assert each.likeliest[0].token == each.token, "greedy takes the likeliest"
        assert each.likeliest[0].logprob == each.logprob <= 0
    alone = await asked.ask(asked.said(FRANCE), 2, logprobs=0)
    assert [len(each.likeliest) for each in alone.logprobs] == [0, 0]


async def test_a_reply_keeps_to_its_form(asked: Asker) -> None:
    choices = message_pb2.StructuredOutput(choices=message_pb2.StructuredOutput.Choices(texts=["perhaps", "never"]))
    assert (await asked.ask(asked.said(FRANCE), 20, structured_output=choices)).text in ("perhaps", "never")
    digits = message_pb2.StructuredOutput(regex=r"[0-9]{4}-[0-9]{2}")
    assert re.fullmatch(r"\d{4}-\d{2}", (await asked.ask(asked.said("When?"), 20, structured_output=digits)).text)
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer", "maximum": 99}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    form = message_pb2.StructuredOutput(json_schema=json.dumps(schema))
    reply = await asked.ask(asked.said("Describe Paris as JSON."), 60, structured_output=form)
    assert json.loads(reply.text).keys() == {"city", "people"}
    assert reply.finish_reason == turn_pb2.FINISH_REASON_STOP


async def test_a_reply_calls_what_it_must(asked: Asker) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    function = message_pb2.ToolUse.Function(name="look_up", parameters=json.dumps(schema), strict=True)
    tools = message_pb2.ToolUse(functions=[function], choice=message_pb2.ToolUse.CHOICE_REQUIRED, single=True)
    reply = await asked.ask(asked.said(FRANCE), 60, tools=tools)
    arguments = reply.text.removeprefix(head("look_up")).removesuffix(TAIL)
    assert reply.text == call("look_up", arguments)
    assert json.loads(arguments)["city"] in ("Paris", "Rome")
    assert reply.finish_reason == turn_pb2.FINISH_REASON_STOP


async def test_what_the_caller_got_wrong_is_told_by_its_field(asked: Asker) -> None:
    prompt = asked.said(FRANCE)
    wrong: dict[str, dict[str, Any]] = {
        "params.structured_output": {"structured_output": message_pb2.StructuredOutput(regex="[a-")},
        "params.temperature": {"temperature": 2.5},
        "params.min_p": {"min_p": 1.5},
    }
    for field, sampling in wrong.items():
        with pytest.raises(InvalidField) as caught:
            await asked.ask(prompt, **sampling)
        assert [each.field for each in caught.value.fields] == [field]
    with pytest.raises(InvalidField, match=f"{CONTEXT_TOKENS} tokens; expected less than {CONTEXT_TOKENS}"):
        await asked.ask((prompt * 200)[:CONTEXT_TOKENS])
    last = await asked.ask((prompt * 200)[: CONTEXT_TOKENS - 1])
    assert len(last.ids) <= 1


async def test_an_adapter_answers_by_its_name(asked: Asker) -> None:
    prompt = asked.said(FRANCE)
    assert asked.engine.adapters == ("same", "other")
    plain, same, other = await asyncio.gather(*(asked.ask(prompt, adapter=name) for name in ("", "same", "other")))
    assert plain.ids == same.ids
    assert plain.ids != other.ids


async def test_closing_a_reply_frees_what_it_held(asked: Asker) -> None:
    async with aclosing(asked.engine.generate(asked.request(asked.story(1_200), 400))) as outputs:
        await anext(outputs)
        assert asked.engine.running == 1
        assert asked.engine.kv_use() > 0.25
    assert asked.engine.running == 0
    await asked.ask(asked.said("Hi."), 2)
    assert asked.engine.kv_use() < 0.1


async def test_its_steps_go_on_while_a_long_prompt_is_read(asked: Asker) -> None:
    before = asked.engine.steps
    async with aclosing(asked.engine.generate(asked.request(asked.story(1_800), 4, salt="steps"))) as outputs:
        await anext(outputs)
        assert asked.engine.steps - before >= 1_800 // 256


def waiting_in_vllm(asked: Asker) -> float | None:
    labels = {"model_name": asked.engine.model, "engine": "0"}
    return REGISTRY.get_sample_value("vllm:num_requests_waiting", labels)


async def test_the_lower_priority_goes_first(asked: Asker) -> None:
    order: list[int] = []

    async def late(priority: int) -> None:
        await asked.ask(asked.said("Hi."), 1, priority=priority)
        order.append(priority)

    # As many as vLLM has places, two of them kept for residents.
    fillers = [asked.engine.generate(asked.request(asked.said("Count!"), 900, priority=-1)) for _ in range(4)]
    for filler in fillers:
        await anext(filler)
    waiting = [asyncio.create_task(late(priority)) for priority in (9, 5, 0)]
    await eventually(lambda: waiting_in_vllm(asked) == len(waiting), 60)
    await fillers[0].aclose()
    await asyncio.gather(*waiting)
    assert order == [0, 5, 9]
    for filler in fillers:
        await filler.aclose()


async def test_wrong_arguments_are_told_before_anything_starts(tmp_path: Path) -> None:
    wrong = {
        r"^vllm.engine_args.max_num_seq: .* did you mean 'max_num_seqs'\?$": VllmSettings(
            engine_args={"max_num_seq": 1}
        ),
        r"^vllm.engine_args.dtype: got 'float99': Input should be 'auto', .*$": VllmSettings(
            engine_args={"dtype": "float99"}
        ),
        r"^vllm.engine_args.kv_cache_memory_bytes: 0.00 GiB hold .* for the 8192 of one context": VllmSettings(
            engine_args={"kv_cache_memory_bytes": 1 << 20}
        ),
        r"^vllm.adapters.gone: .*adapter_config.json": VllmSettings(adapters={"gone": tmp_path}),
    }
    children = multiprocessing.active_children()
    for message, vllm in wrong.items():
        with pytest.raises(ConfigError, match=message) as caught:
            await VllmEngine(context(vllm)).start()
        assert len(str(caught.value).splitlines()) == 1
    assert multiprocessing.active_children() == children


async def test_a_dead_process_fails_its_requests_and_is_replaced(asked: Asker) -> None:
    (child,) = multiprocessing.active_children()
    steps = asked.engine.steps
    async with aclosing(asked.engine.generate(asked.request(asked.said("Count to a thousand."), 900))) as outputs:
        await anext(outputs)
        child.kill()
        with pytest.raises(IsthmusError) as caught:
            [_ async for _ in outputs]
    assert caught.value.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    assert asked.engine.running == 0
    replies = await asyncio.gather(*(asked.ask(asked.said(FRANCE), 12) for _ in range(2)))
    assert all("Paris" in reply.text for reply in replies)
    assert asked.engine.steps > steps
    assert len(multiprocessing.active_children()) == 1, "who waits for a start waits for the same"


async def test_stopping_fails_what_runs_and_leaves_no_process(asked: Asker) -> None:
    async with aclosing(asked.engine.generate(asked.request(asked.said("Count to a thousand."), 900))) as outputs:
        await anext(outputs)
        await asked.engine.stop()
        with pytest.raises(IsthmusError) as caught:
            [_ async for _ in outputs]
    assert caught.value.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    assert multiprocessing.active_children() == []


async def test_a_start_that_takes_too_long_is_given_up_and_leaves_no_process() -> None:
    engine = VllmEngine(context(VllmSettings(start_ms_max=1_000)))
    async with asyncio.timeout(60):
        with pytest.raises(IsthmusError, match=r"vLLM was not ready in vllm\.start_ms_max, 1000 ms") as caught:
            await engine.start()
    assert caught.value.reason == errors_pb2.ERROR_REASON_ENGINE_FAILED
    assert multiprocessing.active_children() == []
    await engine.stop()
