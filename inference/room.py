"""The inference room as a process: loads and warms a model, serves it, and tells the mesh what it is."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import Final

import structlog
from isthmus.inference.v1 import inference_service_pb2 as contract
from isthmus.inference.v1 import inference_service_pb2_grpc

from inference.admission import Admission
from inference.assembly import WindowAssembler
from inference.embeddings import Embedder, create_embedder
from inference.engine import (
    Engine,
    EngineContext,
    EngineRequest,
    Sampling,
    create_engine,
    is_conversational,
    is_elsewhere,
)
from inference.generation import Generator
from inference.metrics import InferenceMetrics
from inference.model_files import ModelFiles
from inference.models import configured_model
from inference.service import InferenceServicer
from inference.standing import Standing
from inference.template import RULES, ChatTemplate
from inference.tokenizer import Tokenizer
from inference.watchdog import Watchdog, end_process
from inference.windows import Window, WindowCache
from services import valkey
from services.config import ConfigError
from services.lifecycle import RoomContext, State
from services.membership import Announcer, Member, View
from services.metrics_http import MetricsServer
from services.router import (
    INFERENCE,
    LABEL_ADAPTERS,
    LABEL_EMBEDDING,
    LABEL_MODEL,
    LABEL_POOL,
    LABEL_REGION,
    STORE,
    Router,
)
from services.rpc import Channels, GrpcServer

READ_WINDOW: Final = "/isthmus.context.v1.ContextService/ReadWindow"

_log = structlog.get_logger("inference")


class InferenceRoom:
    """A model replica. Its server answers NOT_READY until the model is warm."""

    name = INFERENCE

    def __init__(self, context: RoomContext) -> None:
        self._standing = Standing(context.lifecycle)
        self._context = replace(context, lifecycle=self._standing)
        self._settings = context.settings.inference
        self._server = GrpcServer(self._context)
        self.admission = Admission(self._settings)
        self._metrics_server: MetricsServer | None = None
        self._watchdog: Watchdog | None = None
        self._closing = AsyncExitStack()
        self.engine: Engine | None = None
        self.embedder: Embedder | None = None

    @property
    def address(self) -> str:
        """The bound `host:port`."""
        return self._server.address

    @property
    def metrics_address(self) -> str:
        """Where `/metrics` is served, empty where it is not."""
        return "" if self._metrics_server is None else self._metrics_server.address

    async def start(self) -> None:
        """Loads, warms, serves and announces. Raises ModelFilesError or ValueError for a model that cannot be had."""
        client = valkey.connect(self._context.settings.valkey)
        self._closing.push_async_callback(client.aclose)
        router = await self._router(client)
        files = await asyncio.to_thread(configured_model, self._context.settings)
        vocabulary = files.vocabulary
        tokenizer = Tokenizer(files.tokenizer_json, vocabulary, self._settings.tokenize_chars_max)
        template = ChatTemplate(tokenizer, vocabulary.chat_template, vocabulary.variables)
        texts = self._executor("texts")
        engine, embedder = await self._load(files, tokenizer, template, texts)
        metrics = self._measure(engine)
        generator = self._generator(engine, tokenizer, template, router, metrics)
        model = _model(self._settings.engine, engine, files, template, generator, embedder)
        servicer = InferenceServicer(model, generator, template, embedder, texts)
        self._server.add(
            inference_service_pb2_grpc.add_InferenceServiceServicer_to_server, servicer, contract.DESCRIPTOR
        )
        await self._server.start()
        self._closing.push_async_callback(self._server.stop)
        await self._serve_metrics(metrics)
        await self._watch(engine, template, metrics)
        await self._announce(model, generator, client)
        self._context.lifecycle.move(State.READY)

    async def drain(self) -> None:
        """Takes nothing new; replies that are being generated, or wait for that, are finished.

        Raises EngineLost where the process ends because its engine could not be brought back.
        """
        self._context.lifecycle.move(State.DRAINING)
        await self._server.drain()
        if self._watchdog is not None:
            self._watchdog.check()

    async def stop(self) -> None:
        """Ends what is left and frees the model."""
        self._context.lifecycle.move(State.STOPPED)
        await self._closing.aclose()

    async def _router(self, client: valkey.Client) -> Router:
        settings = self._context.settings
        channels = Channels(settings.rpc, self.name, retryable=[READ_WINDOW])
        self._closing.push_async_callback(channels.aclose)
        view = View(client, settings.membership, rooms=(STORE, INFERENCE))
        await view.start()
        self._closing.push_async_callback(view.stop)
        return Router(view, channels, settings.membership)

    async def _load(
        self, files: ModelFiles, tokenizer: Tokenizer, template: ChatTemplate, texts: ThreadPoolExecutor
    ) -> tuple[Engine, Embedder]:
        settings = self._context.settings
        # Before anything loads: it says what is not installed.
        embedder = self.embedder = create_embedder(settings, texts)
        context = EngineContext(self._settings, files, tokenizer, settings.vllm, settings.openai, settings.anthropic)
        engine = self.engine = create_engine(context)
        self._closing.push_async_callback(engine.stop)
        await engine.start()
        if not is_conversational(self._settings.engine):
            await _warm(engine, template)
        if embedder.model in (engine.model, *engine.adapters):
            raise ConfigError(
                f"inference.model: {embedder.model!r} is the name of the model that makes vectors; expected another one"
            )
        self._closing.push_async_callback(embedder.stop)
        await embedder.start()
        return engine, embedder

    def _measure(self, engine: Engine) -> InferenceMetrics:
        metrics = InferenceMetrics(engine.model, self._settings.engine)
        metrics.watch_queue(self.admission.queue)
        metrics.watch_engine(engine)
        return metrics

    async def _serve_metrics(self, metrics: InferenceMetrics) -> None:
        if self._context.http_listen is not None:
            self._metrics_server = MetricsServer(metrics.exposition, self._context.http_listen)
            await self._metrics_server.start()
            self._closing.push_async_callback(self._metrics_server.stop)

    async def _watch(self, engine: Engine, template: ChatTemplate, metrics: InferenceMetrics) -> None:
        if is_elsewhere(self._settings.engine):
            return
        settings = self._context.settings
        end = partial(end_process, (settings.rpc.drain_ms_max + self._settings.engine_stop_ms_max) / 1000)
        self._watchdog = Watchdog(
            engine, partial(_warm, engine, template), self.admission, self._standing, metrics, self._settings, end
        )
        await self._watchdog.start()
        self._closing.push_async_callback(self._watchdog.stop)

    def _generator(
        self, engine: Engine, tokenizer: Tokenizer, template: ChatTemplate, router: Router, metrics: InferenceMetrics
    ) -> Generator:
        cache = WindowCache(self._settings.window_cache_bytes_max)
        assembler = WindowAssembler(router, template, cache, self._executor("windows"), self._settings)
        member_id = self._context.member_id
        return Generator(
            engine, tokenizer, template, assembler, cache, self._settings, member_id, self.admission, metrics
        )

    def _executor(self, work: str) -> ThreadPoolExecutor:
        """Threads of their own for each kind of work: a thousand texts to embed must not hold up a turn."""
        executor = ThreadPoolExecutor(self._settings.text_threads_count, thread_name_prefix=work)
        self._closing.callback(executor.shutdown, wait=False, cancel_futures=True)
        return executor

    async def _announce(self, model: contract.Model, generator: Generator, client: valkey.Client) -> None:
        labels = {
            LABEL_MODEL: model.name,
            "engine": model.engine,
            "tokenizer": model.tokenizer.hex(),
            "context_tokens_max": str(model.context_tokens_max),
            "overhead_tokens": str(model.overhead_tokens),
            "max_output_tokens_default": str(model.max_output_tokens_default),
            LABEL_ADAPTERS: ",".join(model.adapters),
            LABEL_POOL: self._settings.pool,
            LABEL_REGION: self._settings.region,
            LABEL_EMBEDDING: model.embedding_model,
        }
        membership = self._context.settings.membership
        member = Member(
            self._context.member_id, self.name, self._server.address, weight=membership.weight, labels=labels
        )
        announcer = Announcer(client, membership, member, self._context.lifecycle, lambda: generator.load)
        await announcer.start()
        self._closing.push_async_callback(announcer.stop)
        _log.info("model loaded", **labels)


async def _warm(engine: Engine, template: ChatTemplate) -> None:
    """One tiny reply, so that the first caller does not pay for what is set up on first use."""
    request = EngineRequest(
        window=template.reply_header,
        header=template.reply_header,
        points=(Window().end,),
        cache_salt="",
        sampling=Sampling(output_tokens_max=2, temperature=0.0),
    )
    async for _ in engine.generate(request):
        continue


def _model(
    name: str, engine: Engine, files: ModelFiles, template: ChatTemplate, generator: Generator, embedder: Embedder
) -> contract.Model:
    vocabulary = files.vocabulary
    identity = "\0".join(
        (vocabulary.tokenizer_sha256, vocabulary.chat_template, *sorted(vocabulary.variables.values()), RULES)
    )
    return contract.Model(
        name=engine.model,
        engine=name,
        context_tokens_max=engine.context_tokens_max,
        tokenizer=blake2b(identity.encode(), digest_size=16).digest(),
        overhead_tokens=template.overhead_tokens,
        embedding_model=embedder.model,
        embedding_dimensions=embedder.dimensions,
        max_output_tokens_default=generator.output_tokens_default,
        adapters=engine.adapters,
    )
