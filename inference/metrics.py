"""What a replica counts and times, for Prometheus.

The histograms `gen_ai_*` are those of OpenTelemetry's conventions for generative AI, with their buckets and attributes;
what the conventions have no name for is called `isthmus_inference_*`, and labelled by model and engine. No label takes
a value that a caller could invent: a model is one that is served here, an error one of the contract's reasons.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol, runtime_checkable

import grpc
from isthmus.inference.v1 import inference_service_pb2 as contract
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from inference.queue import RequestQueue
from services.errors import IsthmusError, from_rpc_error, reason_name

FIRST_TOKEN_S: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
OUTPUT_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
REQUEST_S: Final = tuple(0.01 * 2**step for step in range(14))
TOKENS: Final = tuple(4**step for step in range(14))
SHARES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)

_LABELS: Final = ("model", "engine")
_ATTRIBUTES: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_OPERATION: Final = "chat"
# The conventions' word for an error that has no name of its own.
_OTHER: Final = "_OTHER"
_CALLER_GONE: Final = "caller_gone"


class OpenSessions(Protocol):
    """Sessions that stay open in an engine."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def tokens(self) -> int:
        """The tokens that they have there."""


@runtime_checkable
class EngineGauges(Protocol):
    """What an engine may tell of itself beyond the Engine protocol. Asked at every scrape, from the event loop."""

    def kv_use(self) -> float:
        """The share of the KV cache that is taken, 0 to 1."""

    def residents(self) -> OpenSessions:
        """The sessions that stay open in it."""


class Measured:
    """One request as it goes by."""

    def __init__(self, model: str, began_s: float) -> None:
        self.model = model
        self.began_s = began_s
        self.error = ""
        self.first_token_s: float | None = None

    def delta(self) -> None:
        """Output goes out."""
        if self.first_token_s is None:
            self.first_token_s = time.perf_counter() - self.began_s


class InferenceMetrics:
    """A replica's own registry, since several replicas may live in one process."""

    def __init__(self, model: str, engine: str) -> None:
        self.registry = registry = CollectorRegistry()
        # `openai:URL` names a server, which is nobody's business here.
        self._engine = engine.partition(":")[0]
        self._labels = (model, self._engine)
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From a request's arrival to its end.",
            (*_ATTRIBUTES, "error_type"),
            buckets=REQUEST_S,
            registry=registry,
        )
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From a request's arrival to its first output, for replies that were finished.",
            _ATTRIBUTES,
            buckets=FIRST_TOKEN_S,
            registry=registry,
        )
        self._output_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time for each output token after the first, for replies that were finished.",
            _ATTRIBUTES,
            buckets=OUTPUT_TOKEN_S,
            registry=registry,
        )
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of replies that were finished.",
            (*_ATTRIBUTES, "gen_ai_token_type"),
            buckets=TOKENS,
            registry=registry,
        )
        self._queue = Histogram(
            "isthmus_inference_queue_seconds",
            "Time in line: for the window's reading, and for a place in the batch.",
            _LABELS,
            buckets=REQUEST_S,
            registry=registry,
        )
        self._cached = Histogram(
            "isthmus_inference_cached_ratio",
            "Share of a prompt's tokens that were in the KV cache, where the engine knows.",
            _LABELS,
            buckets=SHARES,
            registry=registry,
        )
        self._restarts = Counter(
            "isthmus_inference_engine_restarts", "Restarts of a stuck engine.", _LABELS, registry=registry
        )
        self._restarts.labels(*self._labels)

    @contextmanager
    def request(self, model: str) -> Iterator[Measured]:
        """Times a request, however it ends; `model` is one that is served."""
        measured = Measured(model, time.perf_counter())
        try:
            yield measured
        except BaseException as error:
            measured.error = _error_type(error)
            raise
        finally:
            took_s = time.perf_counter() - measured.began_s
            self._duration.labels(*self._attributes(model), measured.error).observe(took_s)

    def began(self, measured: Measured, waited_s: float) -> None:
        """A request has its place in the batch."""
        self._queue.labels(measured.model, self._engine).observe(waited_s)

    def finished(
        self,
        measured: Measured,
        started: contract.GenerateResponse.Started,
        finished: contract.GenerateResponse.Finished,
        emitted_tokens: int,
    ) -> None:
        """A reply is whole; `emitted_tokens` of it came from another replica, and were read here as input."""
        input_tokens, output_tokens = started.window_tokens + emitted_tokens, finished.output_tokens - emitted_tokens
        attributes = self._attributes(measured.model)
        if measured.first_token_s is not None:
            self._first_token.labels(*attributes).observe(measured.first_token_s)
        if output_tokens > 1:
            decode_s = (finished.engine_ms - finished.engine_ttft_ms) / 1000
            self._output_token.labels(*attributes).observe(decode_s / (output_tokens - 1))
        self._tokens.labels(*attributes, "input").observe(input_tokens)
        self._tokens.labels(*attributes, "output").observe(output_tokens)
        if finished.HasField("cached_tokens"):
            share = finished.cached_tokens / max(1, input_tokens)
            self._cached.labels(measured.model, self._engine).observe(min(1.0, share))

    def restarted(self) -> None:
        """A stuck engine is started again."""
        self._restarts.labels(*self._labels).inc()

    def watch_queue(self, queue: RequestQueue) -> None:
        """Shows where the replica's requests stand; `waiting_tokens` is what to scale by."""
        engine = queue.engine
        self._gauge("waiting_tokens", "Tokens for the engine to read that waiting requests bring.").set_function(
            lambda: engine.waiting_tokens
        )
        self._gauge("waiting_requests", "Requests that wait for a place in the batch.").set_function(
            lambda: engine.waiting
        )
        self._gauge("running_requests", "Requests that have a place in the batch.").set_function(lambda: engine.placed)
        self._gauge("running_tokens", "Tokens of their windows and of replies at full length.").set_function(
            lambda: engine.placed_tokens
        )
        self._gauge("accepted_requests", "All requests, those included whose window is not ready.").set_function(
            lambda: queue.accepted
        )

    def watch_engine(self, engine: object) -> None:
        """Shows what the engine tells of itself, if it is one that does."""
        if not isinstance(engine, EngineGauges):
            return
        self._gauge("kv_use_ratio", "Share of the KV cache that is taken.").set_function(engine.kv_use)
        self._gauge("resident_sessions", "Sessions that are open in the engine.").set_function(
            lambda: engine.residents().count
        )
        self._gauge("resident_tokens", "Tokens of the sessions that are open in the engine.").set_function(
            lambda: engine.residents().tokens
        )

    def exposition(self) -> bytes:
        """All of it as text, and what the process and libraries in it (vLLM) count for themselves."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(f"isthmus_inference_{name}", what, _LABELS, registry=self.registry).labels(*self._labels)

    def _attributes(self, model: str) -> tuple[str, str, str]:
        return _OPERATION, self._engine, model


def _error_type(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        error = from_rpc_error(error)
    if isinstance(error, IsthmusError):
        return reason_name(error.reason).lower()
    return _CALLER_GONE if isinstance(error, GeneratorExit | asyncio.CancelledError) else _OTHER
