"""Vectors of texts, from whichever replica has room; one that is away, full, or has another model is passed over."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2

from gateway.identity import new_id
from gateway.models.replicas import Replicas
from gateway.retry import is_transient, retrying
from gateway.shards import answered
from services.config import GatewaySettings
from services.errors import FieldViolation, InvalidField, IsthmusError

# One call: a fraction of what the contract takes, so that the vectors of wide models fit into its answer, too.
_TEXTS_COUNT_MAX: Final = 256
_TEXTS_BYTES_MAX: Final = 1 << 20
_TEXT_FIELD: Final = re.compile(r"texts\[(\d+)\]")
_PASSED_OVER: Final = frozenset({errors_pb2.ERROR_REASON_OVERLOADED, errors_pb2.ERROR_REASON_MODEL_NOT_FOUND})


@dataclass(slots=True)
class Embedded:
    """A unit vector for each text, in order: little-endian float32, `dimensions` of them."""

    model: str = ""
    dimensions: int = 0
    tokens: int = 0
    vectors: list[bytes] = field(default_factory=list)


class Embedding:
    """Asks replicas for vectors; all of one answer are of one model."""

    def __init__(
        self, replicas: Replicas, settings: GatewaySettings, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._replicas = replicas
        self._settings = settings
        self._random_bytes = random_bytes

    async def embed(self, texts: Sequence[str], model: str, until: float, dimensions: int | None = None) -> Embedded:
        """The texts' vectors by `until` (time.monotonic()). Bounds of the texts are the caller's to keep.

        `model` is one that makes vectors, or one that generates: then a replica of that speaks, as any does for an
        empty one. InvalidField by `texts[…]`, or by `dimensions` where they are not those of the model;
        MODEL_NOT_FOUND; OVERLOADED where all replicas are.
        """
        beside = model if any(limits.name == model for limits in self._replicas.models()) else ""
        found = Embedded(model="" if beside else model)
        for batch in _batches(texts):
            answer = await self._ask(batch, found.model, beside, until, len(found.vectors))
            size = 4 * answer.dimensions
            if dimensions is not None and dimensions != answer.dimensions:
                raise InvalidField(
                    "dimensions", f"is {dimensions}, expected {answer.dimensions}: {answer.model} has so many"
                )
            found.model, found.dimensions = answer.model, answer.dimensions
            found.tokens += answer.tokens
            found.vectors += [answer.vectors[at : at + size] for at in range(0, len(answer.vectors), size)]
        return found

    async def _ask(
        self, texts: Sequence[str], model: str, beside: str, until: float, offset: int
    ) -> inference_service_pb2.EmbedResponse:
        request = inference_service_pb2.EmbedRequest(texts=texts, model=model)
        passed_over: set[str] = set()

        async def attempt() -> inference_service_pb2.EmbedResponse:
            replica = self._replicas.pick("", new_id(self._random_bytes, "texts"), beside, passed_over)
            try:
                return await answered(replica.stub.Embed(request, timeout=max(0.0, until - time.monotonic())))
            except IsthmusError as error:
                if is_transient(error):
                    self._replicas.suspect(replica)
                if error.reason not in _PASSED_OVER:
                    raise _placed(error, offset) from None
                passed_over.add(replica.member_id)
                if not self._replicas.is_other(beside, passed_over):
                    raise _refused(error, model) from None
            finally:
                self._replicas.release(replica)
            return await attempt()

        seconds = min(self._settings.upstream_wait_ms_max / 1000, until - time.monotonic())
        return await retrying(attempt, self._settings, seconds)


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        size += len(text.encode())
        if batch and (len(batch) == _TEXTS_COUNT_MAX or size > _TEXTS_BYTES_MAX):
            yield batch
            batch, size = [], len(text.encode())
        batch.append(text)
    if batch:
        yield batch


def _placed(error: IsthmusError, offset: int) -> IsthmusError:
    """The error with the text's place among all texts."""
    match = _TEXT_FIELD.fullmatch(error.fields[0].field) if error.fields else None
    if match is None:
        return error
    return InvalidField(f"texts[{offset + int(match[1])}]", error.fields[0].description)


def _refused(error: IsthmusError, model: str) -> IsthmusError:
    if error.reason != errors_pb2.ERROR_REASON_MODEL_NOT_FOUND:
        return error
    return IsthmusError(
        error.reason,
        f"model: no replica makes vectors by {model!r}; expected a model that makes them, one that generates, or none",
        fields=[FieldViolation("model", "is served by no replica")],
    )
