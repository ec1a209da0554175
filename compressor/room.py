"""The compressor's process: takes jobs from the queue, and serves texts of callers' own."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Final

from isthmus.compression.v1 import compression_service_pb2
from isthmus.compression.v1.compression_service_pb2_grpc import add_CompressionServiceServicer_to_server

from compressor.counting import COUNT_TOKENS
from compressor.critic.audit import Auditor
from compressor.critic.metrics import CriticMetrics
from compressor.documents import COMMIT_VECTORS, EMBED, GET_DOCUMENT, DocumentEmbedder
from compressor.jobs import register, register_audits
from compressor.segments import COMMIT_SUMMARY, READ_FRAGMENTS, SegmentSummariser
from compressor.service import CompressionServicer
from services import jobs, valkey
from services.audits.keeper import AuditKeeper
from services.config import CompressorSettings
from services.job_worker import JobWorker, Pace
from services.lifecycle import RoomContext, State
from services.membership import Announcer, Member, View
from services.metrics_http import MetricsServer
from services.router import INFERENCE, STORE, Router
from services.rpc import Channels, GrpcServer

_RETRYABLE: Final = (READ_FRAGMENTS, COMMIT_SUMMARY, COUNT_TOKENS, GET_DOCUMENT, COMMIT_VECTORS, EMBED)


class CompressorRoom:
    """One worker. It holds nothing that cannot be done again."""

    name = "compressor"

    def __init__(self, context: RoomContext) -> None:
        self._context = context
        self._resources = AsyncExitStack()
        self._server: GrpcServer | None = None
        self._worker: JobWorker | None = None
        self.address = ""
        # Of `/metrics`, where it is served.
        self.http_address = ""

    async def start(self) -> None:
        """Connects, binds, announces, and takes the first job."""
        context, settings = self._context, self._context.settings
        client = valkey.connect(settings.valkey)
        self._resources.push_async_callback(client.aclose)
        channels = Channels(settings.rpc, self.name, retryable=_RETRYABLE)
        self._resources.push_async_callback(channels.aclose)
        view = View(client, settings.membership, rooms=(STORE, INFERENCE))
        await view.start()
        self._resources.push_async_callback(view.stop)
        router = Router(view, channels, settings.membership)
        self.address = await self._serve(router)
        member = Member(context.member_id, self.name, self.address)
        announcer = Announcer(client, settings.membership, member, context.lifecycle)
        await announcer.start()
        self._resources.push_async_callback(announcer.stop)
        metrics = CriticMetrics()
        await self._serve_metrics(metrics)
        auditor = Auditor(router, AuditKeeper(client, settings.compressor.audits), settings.compressor, metrics)
        await self._work(router, auditor)
        context.lifecycle.move(State.READY)

    async def drain(self) -> None:
        """Takes no new text and no new job, and finishes those that it has."""
        self._context.lifecycle.move(State.DRAINING)
        if self._worker and self._server:
            await asyncio.gather(self._worker.drain(self._context.settings.rpc.drain_ms_max), self._server.drain())

    async def stop(self) -> None:
        """Lets go of everything; unfinished jobs go to another worker."""
        await self._resources.aclose()
        self._context.lifecycle.move(State.STOPPED)

    async def _serve(self, router: Router) -> str:
        context, settings = self._context, self._context.settings
        # A text may have 4 MiB, and its request and response are a little longer.
        server = self._server = GrpcServer(context, message_bytes_max=settings.rpc.edge_message_bytes_max)
        servicer = CompressionServicer(router, settings.compressor, context.member_id)
        server.add(add_CompressionServiceServicer_to_server, servicer, compression_service_pb2.DESCRIPTOR)
        address = await server.start()
        self._resources.push_async_callback(server.stop)
        return address

    async def _serve_metrics(self, metrics: CriticMetrics) -> None:
        if self._context.http_listen is not None:
            server = MetricsServer(metrics.exposition, self._context.http_listen)
            await server.start()
            self._resources.push_async_callback(server.stop)
            self.http_address = server.address

    async def _work(self, router: Router, auditor: Auditor) -> None:
        settings = self._context.settings
        # One line a job is ours to write; docket would add a traceback for each attempt that is simply too early.
        logging.getLogger("docket.worker").setLevel(logging.WARNING)
        logging.getLogger("docket.dependencies").setLevel(logging.CRITICAL)
        queue = await self._resources.enter_async_context(jobs.docket(settings))
        summariser = SegmentSummariser(router, settings.compressor)
        register(queue, summariser, DocumentEmbedder(router, settings.compressor), settings.compressor)
        register_audits(queue, auditor, settings.compressor)
        worker = self._worker = JobWorker(queue, _pace(settings.compressor), self._context.member_id)
        worker.start()
        self._resources.push_async_callback(worker.stop)


def _pace(settings: CompressorSettings) -> Pace:
    return Pace(
        settings.jobs_concurrent_max,
        settings.job_poll_ms,
        settings.job_schedule_ms,
        settings.job_redelivery_ms,
        settings.job_reconnect_ms,
    )
