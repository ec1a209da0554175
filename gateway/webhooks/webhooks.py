"""Who is told of an event, and the jobs that tell them: each endpoint has its own, tried again until it is taken."""

from __future__ import annotations

import time
from datetime import timedelta
from hashlib import blake2b
from random import random
from typing import Final

import structlog
from docket import Docket, Retry
from prometheus_client import CollectorRegistry, Counter
from redis.exceptions import RedisError

from gateway.jobs.queue import JobQueue
from gateway.jobs.verdict import backoff_ms
from gateway.webhooks.deliver import Sender
from gateway.webhooks.event import Event
from services.config import Settings
from services.errors import UpstreamUnavailable
from services.job_worker import Pace
from services.valkey import Acknowledger, Client
from services.valkey.failover import expected
from services.webhooks import keeper, trial
from services.webhooks.dead import DeadEvent, bury
from services.webhooks.endpoint import TEST_EVENT
from services.webhooks.trial import DELIVER

_KEY_BYTES: Final = 16
_log: Final = structlog.get_logger("webhooks")


class Webhooks:
    """Events to endpoints, at least once each: a receiver tells a second time by `webhook-id`."""

    def __init__(
        self,
        valkey: Client,
        acknowledger: Acknowledger,
        settings: Settings,
        member_id: str,
        registry: CollectorRegistry,
    ) -> None:
        self._valkey = valkey
        self._acknowledger = acknowledger
        own = self._settings = settings.gateway.webhooks
        jobs = settings.gateway.jobs
        pace = Pace(own.deliveries_concurrent_max, own.poll_ms, jobs.schedule_ms, jobs.redelivery_ms, jobs.reconnect_ms)
        self._sender = Sender(own)
        self.queue = JobQueue(settings, "-webhooks", pace, member_id, self._register)
        self._deliveries = Counter(
            "isthmus_webhooks", "Attempts to deliver an event, by what came of them.", ("outcome",), registry=registry
        )

    def start(self) -> None:
        """Begins to deliver."""
        self.queue.start()

    async def stop(self) -> None:
        """Breaks off what is under way; another gateway delivers it."""
        await self.queue.stop()
        await self._sender.aclose()

    async def tell(self, tenant: str, event: Event) -> None:
        """Has the event delivered to the tenant's endpoints that take it. UPSTREAM_UNAVAILABLE without Valkey."""
        try:
            endpoints = await keeper.listed(self._valkey, tenant)
        except RedisError as error:
            raise expected(error) or UpstreamUnavailable(f"the endpoints cannot be read: {error}") from error
        for endpoint in endpoints:
            if endpoint.takes(event.type):
                what = f"{endpoint.id}:{event.id}".encode()
                key = blake2b(what, digest_size=_KEY_BYTES).hexdigest()
                await self.queue.add(DELIVER, key, tenant, endpoint.id, event.id, event.type, event.body)

    async def deliver(
        self, tenant: str, endpoint_id: str, event_id: str, kind: str, body: bytes, attempt: int
    ) -> int | None:
        """One attempt; the wait in ms until the next one, None where none follows."""
        settings = self._settings
        endpoint = await keeper.find(self._valkey, tenant, endpoint_id)
        if endpoint is None:
            return None
        outcome = await self._sender.send(endpoint, event_id, body)
        log = _log.bind(endpoint=endpoint_id, event=event_id, type=kind, attempt=attempt)
        if kind == TEST_EVENT:
            await trial.leave(self._valkey, tenant, event_id, trial.Answer(outcome.problem, outcome.status))
            return None
        if outcome.is_taken:
            self._deliveries.labels("taken").inc()
            log.info("event delivered", status=outcome.status)
            return None
        if attempt < settings.attempts_count_max:
            self._deliveries.labels("retried").inc()
            wait_ms = backoff_ms(attempt, settings.retry_ms_min, settings.retry_ms_max, random())  # noqa: S311
            log.info("event later", problem=outcome.problem, retry_ms=wait_ms)
            return wait_ms
        await self._bury(
            tenant,
            DeadEvent(
                endpoint=endpoint_id,
                url=endpoint.url,
                event=event_id,
                problem=outcome.problem,
                attempts=attempt,
                end_ms=int(time.time() * 1000),
                body=body.decode(),
            ),
        )
        log.warning("event is a dead letter", problem=outcome.problem)
        return None

    async def _bury(self, tenant: str, event: DeadEvent) -> None:
        self._deliveries.labels("dead").inc()
        await bury(self._acknowledger, tenant, event, self._settings.dead_count_max)

    def _register(self, docket: Docket) -> None:
        again = Retry(attempts=None, delay=timedelta(milliseconds=self._settings.retry_ms_min))

        async def deliver_webhook(
            tenant: str, endpoint: str, event: str, kind: str, body: bytes, retry: Retry = again
        ) -> None:
            # What is raised here is Valkey's absence: tried again until it is back.
            wait_ms = await self.deliver(tenant, endpoint, event, kind, body, retry.attempt)
            if wait_ms is not None:
                retry.after(timedelta(milliseconds=wait_ms))

        docket.register(deliver_webhook, names=[DELIVER])
