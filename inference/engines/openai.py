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
from inference.engines.remote import Event, RemoteEngine, Said
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
_FINISH: Final = {"stop": turn_pb2.FINISH_REASON_STOP, "length": turn_pb2.FINISH_REASON_LENGTH}


class OpenAIEngine(RemoteEngine):
    """One server. What it refuses fails the request; where it is away, the request is as good at another replica."""

    def __init__(self, context: EngineContext) -> None:
        settings = context.openai
        self._url = context.settings.engine.partition(":")[2].rstrip("/")
        key = os.environ.get(settings.api_key_env)
        provider = Provider(
            self._url,
            {"Authorization": f"Bearer {key}"} if key else {},
            silence_ms_max=settings.silence_ms_max,
            connect_ms_max=settings.connect_ms_max,
            connections_max=context.settings.requests_running_max + 1,
        )
        super().__init__(context, provider)
        self.model = context.settings.model or settings.model or ""
        self.samples = _SAMPLES if settings.vllm_fields else _SAMPLES - {"tools", "min_output_tokens"}
        self._settings = settings
        self._bound = context.settings.context_tokens_max
        self._end_ids = context.files.vocabulary.end_ids
        self._served = settings.model or ""

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

    def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        return self._outputs("completions", self._body(request), self._said)

    def _said(self, event: Event) -> Said:
        choice = choice_of(event)
        return Said(self._ids(choice), finish_of(choice), cached_tokens(event), _logprobs(choice))

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
            return self._encoded(choice.get("text") or "")
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


def choice_of(event: Event) -> Mapping[str, Any]:
    """The one choice that was asked for; empty in an event of usage alone."""
    choices: Sequence[Mapping[str, Any]] = event.get("choices") or ({},)
    return choices[0]


def finish_of(choice: Mapping[str, Any]) -> turn_pb2.FinishReason.ValueType:
    """How the reply ends, if it does."""
    return _FINISH.get(choice.get("finish_reason") or "", turn_pb2.FINISH_REASON_UNSPECIFIED)


def cached_tokens(event: Event) -> int | None:
    """Prompt tokens found in the cache, where the event's usage has them."""
    details = (event.get("usage") or {}).get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens")
    return None if cached is None else int(cached)


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
