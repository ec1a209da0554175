"""HTTP to somebody else's server: one streamed answer at a time, and whatever goes wrong as an error that says whose.

What the server itself did is named in the error's metadata under `provider`: its HTTP status, `timeout`, `closed`,
`connect` or `error`. The gateway holds that against the pool, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2 as contract

from inference.engine import engine_failed
from inference.engines.limits import as_metadata, limits_of, retry_after_ms
from services.errors import IsthmusError

_MESSAGE_CHARS_MAX: Final = 500
_ERROR_BYTES_MAX: Final = 64 << 10
_RETRY_MS: Final = 1_000
# Anthropic's word for a server that has too much to do.
_SITE_OVERLOADED: Final = 529
_BUSY: Final = frozenset({httpx.codes.TOO_MANY_REQUESTS, _SITE_OVERLOADED})
# Not this request's fault: a key, an account, a model's name or a path that is wrong. Another pool may be right.
_ACCOUNT: Final = frozenset({401, 402, 403, 404, 408})
# Errors in mid-stream, by OpenAI's and Anthropic's types.
_BUSY_TYPES: Final = frozenset({"overloaded_error", "rate_limit_error", "rate_limit_exceeded"})
_SERVER_TYPES: Final = frozenset({"api_error", "server_error", "timeout_error", "internal_error"})


@dataclass(frozen=True, slots=True)
class Answer:
    """A stream that has begun: its events, and what the provider still takes if it said so."""

    events: AsyncIterator[dict[str, Any]]
    limits: contract.ProviderLimits | None


class Provider:
    """One server. No error tells a key, which is in the client's headers alone."""

    def __init__(
        self, url: str, headers: Mapping[str, str], *, silence_ms_max: int, connect_ms_max: int, connections_max: int
    ) -> None:
        self.url = url
        # Nobody counts the steps but who looks whether it works.
        self.steps = 0
        self._client = httpx.AsyncClient(
            base_url=url if httpx.URL(url).path.strip("/") else f"{url}/v1",
            headers=dict(headers),
            timeout=httpx.Timeout(silence_ms_max / 1000, connect=connect_ms_max / 1000),
            limits=httpx.Limits(max_connections=connections_max),
        )

    async def get(self, path: str) -> Any:
        """A document. Raises httpx's errors, and ValueError for what is no JSON."""
        answer = await self._client.get(path)
        answer.raise_for_status()
        return answer.json()

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    @asynccontextmanager
    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Answer, None]:
        """The answer to a request that asks for a stream.

        Raises, here or while it is read: OVERLOADED with the time to retry, UPSTREAM_UNAVAILABLE for a server that
        fails, breaks off or is silent for too long, ENGINE_FAILED for a request that it does not take.
        """
        try:
            async with self._client.stream("POST", path, json=body) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise await _refusal(answer)
                yield Answer(self._events(answer), limits_of(answer.headers, datetime.now(UTC)))
        except httpx.TimeoutException as error:
            raise self._failed("timeout", error) from error
        except httpx.ConnectError as error:
            raise self._failed("connect", error) from error
        except httpx.HTTPError as error:
            raise self._failed("closed", error) from error

    def broken_off(self) -> IsthmusError:
        """The error of a stream that ended before the reply had."""
        return provider_failed("closed", f"{self.url} ended its stream before the reply was finished")

    async def _events(self, answer: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
        async for line in answer.aiter_lines():
            event = _event(line)
            if event is not None:
                self.steps += 1
                yield event

    def _failed(self, how: str, error: httpx.HTTPError) -> IsthmusError:
        return provider_failed(how, f"{self.url} went away: {error!r}")


def provider_failed(how: str, message: str, retry_ms: int | None = None) -> IsthmusError:
    """The error of a server that failed, in a way that another one need not."""
    return IsthmusError(
        errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE, message, metadata={"provider": how}, retry_after_ms=retry_ms
    )


def _event(line: str) -> dict[str, Any] | None:
    """An event of the stream; None for what is none. Raises the error that came in mid-stream."""
    field, _, value = line.partition(":")
    if field != "data" or value.strip() == "[DONE]":
        return None
    try:
        event = json.loads(value)
    except ValueError:
        raise provider_failed("error", f"the server sent what is no JSON: {value[:_MESSAGE_CHARS_MAX]}") from None
    if not isinstance(event, dict):
        raise provider_failed("error", f"the server sent what is no event: {value[:_MESSAGE_CHARS_MAX]}")
    if event.get("error") or event.get("type") == "error":
        raise _midstream(event.get("error"), value[:_MESSAGE_CHARS_MAX])
    return event


def _midstream(error: Any, said: str) -> IsthmusError:
    kind = str(error.get("type") or "") if isinstance(error, Mapping) else ""
    code = error.get("code") if isinstance(error, Mapping) else None
    if kind in _BUSY_TYPES or code in _BUSY:
        return _busy(code if isinstance(code, int) else 429, f"the server has too many requests: {said}", _RETRY_MS)
    if kind in _SERVER_TYPES or (isinstance(code, int) and code >= httpx.codes.INTERNAL_SERVER_ERROR):
        return provider_failed("error", f"the server failed: {said}")
    return engine_failed(f"the server failed on this request: {said}")


def _busy(status: int, message: str, retry_ms: int, limits: contract.ProviderLimits | None = None) -> IsthmusError:
    return IsthmusError(
        errors_pb2.ERROR_REASON_OVERLOADED,
        message,
        metadata={"provider": str(status)} | as_metadata(limits),
        retry_after_ms=retry_ms,
    )


async def _refusal(answer: httpx.Response) -> IsthmusError:
    body = b""
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > _ERROR_BYTES_MAX:
            break
    said = body.decode(errors="replace")[:_MESSAGE_CHARS_MAX]
    status, now = answer.status_code, datetime.now(UTC)
    after = retry_after_ms(answer.headers, now)
    if status in _BUSY:
        after = _RETRY_MS if after is None else after
        return _busy(status, f"the server has too many requests: {said}", after, limits_of(answer.headers, now))
    if status >= httpx.codes.INTERNAL_SERVER_ERROR or status in _ACCOUNT:
        return provider_failed(str(status), f"the server answered {status}: {said}", after)
    return engine_failed(f"the server refused the request with {status}: {said}")
