"""SmolLM2-135M on the CPU by openvino-genai: continuous batching, paged attention, prefix cache.

The pipeline runs in a process of its own (`worker.py` says why). It has one prefix cache for all callers and reports no
hits, so `cached_tokens` stays unset and `cache_salt` has nothing to go to. It has one random stream for the whole
batch, and sums in an order that depends on the batch: neither a seed nor temperature 0 makes a reply repeatable.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from typing import Final, cast

from isthmus.session.v1 import turn_pb2

from inference.engine import EngineContext, EngineOutput, EngineRequest, engine_failed
from inference.engines.wire import Add, Setup
from inference.engines.worker_process import WorkerProcess
from inference.forms import structural_tag
from inference.model_files import SMOLLM2, find_weights
from inference.schemas import plain
from services.errors import UpstreamUnavailable

# The model card's own settings.
_TEMPERATURE: Final = 0.2
_TOP_P: Final = 0.9
_SEED_BITS: Final = 63


class LocalEngine:
    """The engine's side: requests go to the worker, its outputs to whoever waits for them.

    When the worker dies, the requests in it fail with UPSTREAM_UNAVAILABLE, and the next one starts another.
    """

    def __init__(self, context: EngineContext) -> None:
        settings = context.settings
        trained = context.files.vocabulary.context_tokens_max
        self.model = settings.model or context.files.name
        self.context_tokens_max = min(settings.context_tokens_max or trained, trained)
        self.adapters: tuple[str, ...] = ()
        self.samples = frozenset({"structured_output", "tools", "min_output_tokens"})
        self._settings = settings
        self._end_ids = context.files.vocabulary.end_ids
        self._starting = asyncio.Lock()
        self.worker: WorkerProcess | None = None

    @property
    def running(self) -> int:
        return self.worker.running if self.worker is not None else 0

    @property
    def steps(self) -> int:
        return self.worker.steps if self.worker is not None else 0

    @property
    def is_loading(self) -> bool:
        return self._starting.locked()

    async def start(self) -> None:
        await self._living_worker()

    async def stop(self) -> None:
        if self.worker is not None:
            await self.worker.stop()

    async def forget(self, session: str) -> int:
        return 0

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        # Off the event loop, as a schema takes its time to check.
        tag = await asyncio.to_thread(_tag, request)
        worker = await self._living_worker()
        number, outputs = worker.register()
        try:
            await worker.add(_addition(number, request, tag))
            while True:
                output = await outputs.get()
                if output.error and not output.is_refused and not worker.alive:
                    # Nothing is wrong with the request: the next worker, or another replica, will take it.
                    raise UpstreamUnavailable(f"the engine's worker process {worker.pid} ended in the middle of this")
                if output.error:
                    raise engine_failed(f"the engine failed on this request: {output.error}")
                finish = cast("turn_pb2.FinishReason.ValueType", output.finish)
                yield EngineOutput(output.token_ids, finish)
                if finish:
                    return
        finally:
            worker.cancel(number)

    async def _living_worker(self) -> WorkerProcess:
        async with self._starting:
            if self.worker is None or not self.worker.alive:
                await self.stop()
                weights = await asyncio.to_thread(find_weights, SMOLLM2)
                setup = Setup(
                    weights=str(weights),
                    kv_cache_gib=self._settings.kv_cache_gib,
                    batch_tokens_max=self._settings.batch_tokens_max,
                    requests_max=self._settings.requests_running_max,
                    threads_count=self._settings.threads_count,
                    end_ids=self._end_ids,
                )
                self.worker = await WorkerProcess.start(setup)
            return self.worker


def _tag(request: EngineRequest) -> str:
    """The grammar that the reply keeps to, empty for none; INVALID_FIELD for one that cannot be."""
    sampling = request.sampling
    return structural_tag(sampling.structured_output, sampling.tools, plain) or ""


def _addition(number: int, request: EngineRequest, tag: str) -> Add:
    sampling = request.sampling
    seed = secrets.randbits(_SEED_BITS) if sampling.seed is None else sampling.seed
    return Add(
        number=number,
        prompt=request.prompt.astype("<i4").tobytes(),
        output_tokens_max=sampling.output_tokens_max,
        temperature=_TEMPERATURE if sampling.temperature is None else sampling.temperature,
        top_p=_TOP_P if sampling.top_p is None else sampling.top_p,
        seed=seed & ((1 << _SEED_BITS) - 1),
        tag=tag,
        output_tokens_min=sampling.output_tokens_min,
    )
