"""The engines before providers that take conversations, on real HTTP: what they send, and what a failure becomes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from isthmus.context.v1 import window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, turn_pb2

from inference.engine import Engine, EngineContext, EngineOutput, EngineRequest, Sampling, create_engine
from inference.engines.anthropic import AnthropicEngine
from inference.model_files import ModelFiles, ModelFilesError
from inference.template import START, ChatTemplate
from inference.tokenizer import TokenIds, Tokenizer
from inference.windows import Window
from services.config import AnthropicSettings, InferenceSettings, OpenAISettings
from services.errors import IsthmusError
from tests.support.faulty_provider import TEXT, FaultyProvider, faulty_provider

BEGUN = "One provider may "
SAID = [
    (message_pb2.ROLE_SYSTEM, "Be brief."),
    (message_pb2.ROLE_ASSISTANT, "Hello."),
    (message_pb2.ROLE_USER, "Say it."),
    (message_pb2.ROLE_TOOL, "42"),
]


@pytest.fixture
async def provider() -> AsyncIterator[FaultyProvider]:
    async with faulty_provider() as running:
        yield running


@pytest.fixture(params=["openai-chat", "anthropic"])
def start(
    request: pytest.FixtureRequest,
    provider: FaultyProvider,
    model_files: ModelFiles,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sesame")

    @asynccontextmanager
    async def started(silence_ms_max: int = 10_000) -> AsyncIterator[Engine]:
        settings = InferenceSettings(engine=f"{request.param}:http://127.0.0.1:{provider.port}")
        openai = OpenAISettings(silence_ms_max=silence_ms_max)
        anthropic = AnthropicSettings(model="claude", silence_ms_max=silence_ms_max)
        engine = create_engine(EngineContext(settings, model_files, tokenizer, openai=openai, anthropic=anthropic))
        try:
            await engine.start()
            yield engine
        finally:
            await engine.stop()

    return started


@pytest.fixture
def window(template: ChatTemplate) -> TokenIds:
    items = [
        window_pb2.WindowItem(
            kind=window_pb2.WINDOW_ITEM_KIND_MESSAGE, role=role, text=text, first_sequence=at, last_sequence=at
        )
        for at, (role, text) in enumerate(SAID)
    ]
    return np.concatenate([each.ids for each in template.encode(items, START)])


def asked(window: TokenIds, **fields: Any) -> EngineRequest:
    sampling = Sampling(output_tokens_max=64, temperature=0.5)
    return EngineRequest(window, np.asarray([1], dtype=np.int32), (Window().end,), "acme", sampling, **fields)


async def said(engine: Engine, request: EngineRequest, tokenizer: Tokenizer) -> tuple[str, list[EngineOutput]]:
    outputs = [each async for each in engine.generate(request)]
    return tokenizer.decode(token for each in outputs for token in each.token_ids), outputs


async def refusal(engine: Engine, request: EngineRequest) -> IsthmusError:
    with pytest.raises(IsthmusError) as caught:
        _ = [each async for each in engine.generate(request)]
    assert engine.running == 0
    assert "sesame" not in str(caught.value)
    return caught.value


async def test_a_conversation_goes_there_and_its_text_comes_back(
    provider: FaultyProvider, start: Any, window: TokenIds, tokenizer: Tokenizer
) -> None:
    provider.headers = {"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "1s"}
    async with start() as engine:
        text, outputs = await said(engine, asked(window), tokenizer)
    assert text == TEXT
    assert (outputs[-1].finish_reason, outputs[-1].cached_tokens) == (turn_pb2.FINISH_REASON_STOP, 10)
    assert [each.limits.requests_remaining for each in outputs if each.limits] == [9], "once, with the first text"
    (body,) = provider.bodies
    assert (body["max_tokens"], body["temperature"], body["stream"]) == (64, 0.5, True)
    assert provider.keys[-1] in ("sesame", "Bearer sesame")
    texts = [each["content"] for each in body["messages"]]
    if isinstance(engine, AnthropicEngine):
        assert body["system"] == [{"type": "text", "text": "Be brief."}]
        assert [each["role"] for each in body["messages"]] == ["user", "assistant", "user"]
        assert [block["text"] for block in texts[-1]] == ["Say it.", "42"]
        assert "cache_control" in texts[-1][-1]
    else:
        assert [each["role"] for each in body["messages"]] == ["system", "assistant", "user", "user"]
        assert texts == [text for _, text in SAID]


async def test_a_reply_that_was_begun_goes_on_behind_it(
    provider: FaultyProvider, start: Any, window: TokenIds, tokenizer: Tokenizer
) -> None:
    async with start() as engine:
        text, _ = await said(engine, asked(window, emitted=tokenizer.encode(BEGUN)), tokenizer)
    assert BEGUN + text == TEXT
    last = provider.bodies[-1]["messages"][-1]
    assert last["role"] == "assistant"
    assert last["content"] in (BEGUN, [{"type": "text", "text": BEGUN.rstrip()}])


@pytest.mark.parametrize(
    ("status", "reason", "provider_said"),
    [
        (400, errors_pb2.ERROR_REASON_ENGINE_FAILED, None),
        (401, errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE, "401"),
        (429, errors_pb2.ERROR_REASON_OVERLOADED, "429"),
        (500, errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE, "500"),
        (529, errors_pb2.ERROR_REASON_OVERLOADED, "529"),
    ],
)
async def test_what_a_provider_answers_says_whose_fault_it_is(
    provider: FaultyProvider, start: Any, window: TokenIds, status: int, reason: int, provider_said: str | None
) -> None:
    provider.status = status
    provider.headers = {"retry-after": "7", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "3s"}
    async with start() as engine:
        error = await refusal(engine, asked(window))
    assert (error.reason, error.metadata.get("provider")) == (reason, provider_said)
    if reason == errors_pb2.ERROR_REASON_OVERLOADED:
        assert error.retry_after_ms == 7_000
        assert (error.metadata["requests_remaining"], error.metadata["requests_reset_ms"]) == ("0", "3000")


async def test_silence_and_a_stream_that_breaks_are_the_providers_failures(
    provider: FaultyProvider, start: Any, window: TokenIds
) -> None:
    provider.words = 3
    async with start() as engine:
        assert (await refusal(engine, asked(window))).metadata == {"provider": "closed"}
    provider.hangs = True
    async with start(silence_ms_max=200) as engine:
        assert (await refusal(engine, asked(window))).metadata == {"provider": "timeout"}


def test_anthropic_needs_a_model(model_files: ModelFiles, tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelFilesError, match=r"anthropic\.model is not set"):
        create_engine(EngineContext(InferenceSettings(engine="anthropic:http://x"), model_files, tokenizer))
