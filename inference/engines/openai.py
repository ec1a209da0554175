"""An engine that is somebody else's server: prompts of token ids go to `/v1/completions`, and its stream comes back.

`vllm serve` takes all that the room's own vLLM takes, cache salts and priorities included, and tells the ids that it
generated. A server that tells text alone has it encoded here: other ids perhaps, the same text.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

import httpx
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, turn_pb2

from inference.engine import EngineContext, EngineOutput, EngineRequest, Sampling, engine_failed
from inference.forms import structural_tag
from inference.model_files import ModelFilesError
from services.errors import IsthmusError, UpstreamUnavailable

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
    }
)
_PLAIN: Final = ("temperature", "top_p", "seed", *sorted(_SAMPLES - {"structured_output", "tools"}))
_FINISH: Final = {"stop": turn_pb2.FINISH_REASON_STOP, "length": turn_pb2.FINISH_REASON_LENGTH}
_MESSAGE_CHARS_MAX: Final = 500
_ERROR_BYTES_MAX: Final = 64 << 10
_RETRY_MS: Final = 1_000


class OpenAIEngine:
    """One server. What it refuses fails the request; where it is away, the request is as good at another replica."""

    def __init__(self, context: EngineContext) -> None:
        settings = context.openai
        self.model = context.settings.model or settings.model or ""
        self.context_tokens_max = context.settings.context_tokens_max or context.files.vocabulary.context_tokens_max
        self.adapters: tuple[str, ...] = ()
        self.samples = _SAMPLES if settings.vllm_fields else _SAMPLES - {"tools"}
        self.steps = 0
        self.is_loading = False
        self.running = 0
        self._settings = settings
        self._bound = context.settings.context_tokens_max
        self._tokenizer = context.tokenizer
        self._end_ids = context.files.vocabulary.end_ids
        self._served = settings.model or ""
        self._url = context.settings.engine.partition(":")[2].rstrip("/")
        key = os.environ.get(settings.api_key_env)
        self._client = httpx.AsyncClient(
            base_url=self._url if httpx.URL(self._url).path.strip("/") else f"{self._url}/v1",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(settings.silence_ms_max / 1000, connect=settings.connect_ms_max / 1000),
            limits=httpx.Limits(max_connections=context.settings.requests_running_max + 1),
        )

    async def start(self) -> None:
        """Asks what is served there. Raises ModelFilesError where nobody answers, or the wanted model is not there."""
        try:
            answer = await self._client.get("models")
            answer.raise_for_status()
            served: list[dict[str, Any]] = answer.json()["data"]
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
        await self._client.aclose()

    async def forget(self, session: str) -> int:
        return 0

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        self.running += 1
        try:
            async with self._client.stream("POST", "completions", json=self._body(request)) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise await _refusal(answer)
                cached: int | None = None
                finish = turn_pb2.FINISH_REASON_UNSPECIFIED
                async for line in answer.aiter_lines():
                    event = _event(line)
                    if event is None:
                        continue
                    self.steps += 1
                    cached = _cached_tokens(event, cached)
                    for choice in event.get("choices", ()):
                        finish = _FINISH.get(choice.get("finish_reason"), finish)
                        ids = self._ids(choice)
                        if ids:
                            yield EngineOutput(ids, cached_tokens=cached, logprobs=_logprobs(choice))
                if not finish:
                    raise UpstreamUnavailable(f"{self._url} ended its stream before the reply was finished")
                yield EngineOutput((), finish, cached)
        except httpx.HTTPError as error:
            raise UpstreamUnavailable(f"{self._url} went away: {error!r}") from error
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


def _event(line: str) -> dict[str, Any] | None:
    """An event of the stream; None for what is none. Raises ENGINE_FAILED for an error that came in mid-stream."""
    field, _, value = line.partition(":")
    if field != "data" or value.strip() == "[DONE]":
        return None
    try:
        event = json.loads(value)
    except ValueError:
        raise engine_failed(f"the server sent what is no JSON: {value[:_MESSAGE_CHARS_MAX]}") from None
    if not isinstance(event, dict) or "error" in event:
        raise engine_failed(f"the server failed on this request: {value[:_MESSAGE_CHARS_MAX]}")
    return event


def _cached_tokens(event: Mapping[str, Any], before: int | None) -> int | None:
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


async def _refusal(answer: httpx.Response) -> IsthmusError:
    body = b""
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > _ERROR_BYTES_MAX:
            break
    said = body.decode(errors="replace")[:_MESSAGE_CHARS_MAX]
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        after = answer.headers.get("retry-after", "")
        return IsthmusError(
            errors_pb2.ERROR_REASON_OVERLOADED,
            f"the server has too many requests: {said}",
            retry_after_ms=int(after) * 1_000 if after.isdecimal() else _RETRY_MS,
        )
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        return UpstreamUnavailable(f"the server answered {answer.status_code}: {said}")
    return engine_failed(f"the server refused the request with {answer.status_code}: {said}")
