"""An engine that is somebody else's server: prompts of token ids go to `/v1/completions`, and its stream comes back.

`vllm serve` takes all that the room's own vLLM takes, cache salts and priorities included, and tells the ids that it
generated. A server that tells text alone has it encoded here: other ids perhaps, the same text.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

import httpx
from isthmus.session.v1 import message_pb2, turn_pb2

from inference.engine import EngineContext, EngineOutput, EngineRequest, Sampling
from inference.engines.provider import Provider
from inference.forms import structural_tag
from inference.model_files import ModelFilesError

_SAMPLES: Final = frozenset(
    {
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logprobs",
        "structured_output",
        "tools",
        "min_output_tokens",
    }
)
_OWN_SHAPE: Final = frozenset({"structured_output", "tools", "min_output_tokens"})
_PLAIN: Final = ("temperature", "top_p", "seed", *sorted(_SAMPLES - _OWN_SHAPE))
FINISH: Final = {"stop": turn_pb2.FINISH_REASON_STOP, "length": turn_pb2.FINISH_REASON_LENGTH}


class OpenAIEngine:
    """One server. What it refuses fails the request; where it is away, the request is as good at another replica."""

    def __init__(self, context: EngineContext) -> None:
        settings = context.openai
        self.model = context.settings.model or settings.model or ""
        self.context_tokens_max = context.settings.context_tokens_max or context.files.vocabulary.context_tokens_max
        self.adapters: tuple[str, ...] = ()
        self.samples = _SAMPLES if settings.vllm_fields else _SAMPLES - {"tools", "min_output_tokens"}
        self.is_loading = False
        self.running = 0
        self._settings = settings
        self._bound = context.settings.context_tokens_max
        self._tokenizer = context.tokenizer
        self._end_ids = context.files.vocabulary.end_ids
        self._served = settings.model or ""
        self._url = context.settings.engine.partition(":")[2].rstrip("/")
        key = os.environ.get(settings.api_key_env)
        self._provider = Provider(
            self._url,
            {"Authorization": f"Bearer {key}"} if key else {},
            silence_ms_max=settings.silence_ms_max,
            connect_ms_max=settings.connect_ms_max,
            connections_max=context.settings.requests_running_max + 1,
        )

    @property
    def steps(self) -> int:
        return self._provider.steps

    async def start(self) -> None:
        """Asks what is served there. Raises ModelFilesError where nobody answers, or the wanted model is not there."""
        try:
            served: list[dict[str, Any]] = (await self._provider.get("models"))["data"]
            names = [str(each["id"]) for each in served]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ModelFilesError(
                f"{self._url}/models does not list models: {error!r}; expected a server of OpenAI's shape"
            ) from error
        self._served = self._served or next(iter(names), "")
        if self._served not in names:
            raise ModelFilesError(f"{self._url} does not serve {self._served!r}; expected one of {', '.join(names)}")
        self.model = self.model or self._served
        self.adapters = tuple(str(each["id"]) for each in served if each.get("parent") == self._served)
        length = next((each.get("max_model_len") for each in served if each["id"] == self._served), None)
        if isinstance(length, int):
            self.context_tokens_max = min(self._bound or length, length)

    async def stop(self) -> None:
        await self._provider.aclose()

    async def forget(self, session: str) -> int:
        return 0

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        self.running += 1
        try:
            async with self._provider.stream("completions", self._body(request)) as answer:
                cached: int | None = None
                finish = turn_pb2.FINISH_REASON_UNSPECIFIED
                limits = answer.limits
                async for event in answer.events:
                    cached = cached_tokens(event, cached)
                    for choice in event.get("choices", ()):
                        finish = FINISH.get(choice.get("finish_reason"), finish)
                        ids = self._ids(choice)
                        if ids:
                            yield EngineOutput(ids, cached_tokens=cached, logprobs=_logprobs(choice), limits=limits)
                            limits = None
                if not finish:
                    raise self._provider.broken_off()
                yield EngineOutput((), finish, cached)
        finally:
            self.running -= 1

    def _body(self, request: EngineRequest) -> dict[str, Any]:
        sampling = request.sampling
        given = {name: value for name in _PLAIN if (value := getattr(sampling, name)) is not None}
        body: dict[str, Any] = {
            "model": request.adapter or self._served,
            "prompt": request.prompt.tolist(),
            "max_tokens": sampling.output_tokens_max,
            "stream": True,
            "stream_options": {"include_usage": True},
            **given,
        }
        if self._settings.vllm_fields:
            body |= {"return_token_ids": True, "stop_token_ids": list(self._end_ids), "priority": request.priority}
            body |= {"cache_salt": request.cache_salt} if request.cache_salt else {}
            body |= {"min_tokens": sampling.output_tokens_min} if sampling.output_tokens_min else {}
        form = _form(sampling)
        if form is not None:
            body["structured_outputs"] = form
        return body

    def _ids(self, choice: Mapping[str, Any]) -> tuple[int, ...]:
        ids: Sequence[int] | None = choice.get("token_ids")
        if ids is None:
            return tuple(self._tokenizer.encode(choice.get("text") or "").tolist())
        return tuple(each for each in ids if each not in self._end_ids)


def _form(sampling: Sampling) -> dict[str, Any] | None:
    wanted = sampling.structured_output
    if sampling.tools is not None and (tag := structural_tag(wanted, sampling.tools)) is not None:
        return {"structural_tag": tag}
    if wanted is None:
        return None
    match wanted.WhichOneof("form"):
        case "json_schema":
            return {"json": wanted.json_schema}
        case "regex":
            return {"regex": wanted.regex}
        case _:
            return {"choice": list(wanted.choices.texts)}


def cached_tokens(event: Mapping[str, Any], before: int | None) -> int | None:
    """Prompt tokens found in the cache, as the event's usage has them, or as was known before."""
    details = (event.get("usage") or {}).get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens")
    return int(cached) if cached is not None else before


def _logprobs(choice: Mapping[str, Any]) -> tuple[message_pb2.TokenLogprob, ...]:
    said = choice.get("logprobs") or {}
    tokens, values, tops = (said.get(name) or [] for name in ("tokens", "token_logprobs", "top_logprobs"))
    return tuple(
        message_pb2.TokenLogprob(
            token=token.encode(),
            logprob=value or 0.0,
            likeliest=[
                message_pb2.TokenLogprob(token=other.encode(), logprob=each)
                for other, each in sorted((top or {}).items(), key=lambda pair: -pair[1])
            ],
        )
        for token, value, top in zip(tokens, values, tops or [None] * len(tokens), strict=False)
    )
